//! Values that are one of a few words. A word that is not here is refused when a text is read.

use super::field::words;

words! {
    /// Where an officer is, and so which shares he holds.
    Territory {
        /// In the sending state.
        Home = "home",
        /// Outside it.
        Abroad = "abroad",
    }
}
words! {
    /// The service level that a registry is promised.
    Tier {
        /// Seconds of data, one hour.
        T0 = "T0",
        /// A minute of data, four hours.
        T1 = "T1",
        /// A quarter of an hour of data, a day.
        T2 = "T2",
        /// A day of data, three days.
        T3 = "T3",
    }
}
words! {
    /// The acts that officers can order. This version carries out `activate` and `grant`; it knows the others by name.
    Act {
        /// Start registries at an embassy.
        Activate = "activate",
        /// Let the holder of one key read.
        Grant = "grant",
        /// Change the mandate.
        Amend = "amend",
        /// Declare a successor.
        Declare = "declare",
        /// Give the writing back.
        Handover = "handover",
        /// Deal a new vault.
        Reshare = "reshare",
        /// Destroy keys lawfully.
        Erase = "erase",
        /// Destroy the keys of home replicas.
        Scuttle = "scuttle",
        /// Let somebody in.
        Permit = "permit",
        /// Keep longer.
        Hold = "hold",
        /// Close.
        Seal = "seal",
        /// Stop a pending act.
        Veto = "veto",
        /// Name the software that may run.
        Upgrade = "upgrade",
    }
}
words! {
    /// What may be done with what an order opens.
    Mode {
        /// Open and check, serve nobody.
        Verify = "verify",
        /// Start for reading.
        ReadOnly = "read-only",
        /// Start for reading and writing.
        ReadWrite = "read-write",
        /// Read versions away from the embassy: list, dump, restore.
        Read = "read",
    }
}
words! {
    /// The line of history. Only `main` exists in this version.
    Branch {
        /// The one that counts.
        Main = "main",
    }
}
words! {
    /// A plain answer.
    YesNo {
        /// Yes.
        Yes = "yes",
        /// No.
        No = "no",
    }
}
words! {
    /// Why there is a hole in a stream, or why zero loss does not hold for a range.
    Cause {
        /// The spool was full and its owner chose to protect home.
        SpoolFull = "spool-full",
        /// The database dropped the slot or the log that it held.
        SlotLost = "slot-lost",
        /// The database's history forked.
        Timeline = "timeline",
        /// The agent's own state was lost.
        AgentLost = "agent-lost",
        /// Somebody took the agent out of the required standbys.
        StandbyRemoved = "standby-removed",
    }
}
words! {
    /// The steps of an activation, in order.
    StepKind {
        /// Files are whole on the activation volume.
        Restored = "restored",
        /// The service runs.
        Started = "started",
        /// The log is replayed to the target.
        Replayed = "replayed",
        /// The probes passed.
        Probed = "probed",
        /// It answers queries.
        ServingReadOnly = "serving-read-only",
        /// It takes writes.
        ServingReadWrite = "serving-read-write",
    }
}
words! {
    /// How a registry's activation ended.
    Verdict {
        /// It serves, and every probe passed.
        Intact = "intact",
        /// It serves, but not every probe passed.
        Doubtful = "doubtful",
        /// It does not serve.
        Failed = "failed",
    }
}
words! {
    /// Why an activation was sealed.
    SealCause {
        /// A person asked for it.
        Person = "person",
        /// The process was told to end.
        Signal = "signal",
        /// The order expired.
        Expired = "expired",
        /// Something failed.
        Failure = "failure",
        /// Found dead after a restart: memory, and with it every key, was gone.
        PowerLoss = "power-loss",
    }
}
