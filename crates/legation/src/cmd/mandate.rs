//! `legation mandate`: what the state's constitution says.

use std::path::PathBuf;

use legation_core::statement::{Mandate, Territory};

use crate::charter::Charter;
use crate::ctx::Ctx;
use crate::desk::Desk;
use crate::exit::Failure;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  legation mandate show mandate.signed\n  legation mandate show --at-entry 214"
)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Show who may do what
    #[command(after_help = "Example:\n  legation mandate show mandate.signed")]
    Show {
        /// A signed mandate; without it, the one in force at the embassy
        file: Option<PathBuf>,
        /// Show the one in force when the log had this entry
        #[arg(long, value_name = "N", conflicts_with = "file")]
        at_entry: Option<u64>,
        /// Print the exact text that was signed
        #[arg(long)]
        text: bool,
    },
}

/// Runs the verb.
///
/// # Errors
/// A mandate that does not hold (8); no embassy (10).
pub fn run(args: &Args, ctx: &Ctx) -> Result<(), Failure> {
    let What::Show {
        file,
        at_entry,
        text,
    } = &args.what;
    let (state, mandate, at) = match file {
        Some(path) => {
            let charter = Charter::load(path)?;
            (charter.state, charter.mandate, None)
        }
        None => {
            let desk = Desk::open(ctx)?;
            let size = desk.ledger.mirror.size();
            if let Some(entry) = at_entry.filter(|entry| *entry >= size) {
                return Err(Failure::usage(format!(
                    "the log has {size} entries; there is no entry {entry}"
                )));
            }
            // Mandates are not amended in this version: the founding one is in force at every entry.
            (
                desk.state().id(),
                desk.state().mandate().clone(),
                Some(at_entry.unwrap_or(size - 1)),
            )
        }
    };
    if *text {
        ctx.out.fact(
            "mandate",
            &serde_json::json!({ "state": state, "text": mandate.text() }),
            mandate.text().trim_end(),
        );
        return Ok(());
    }
    let mut record = json(&mandate);
    record["state"] = state.to_string().into();
    record["at_entry"] = at.into();
    ctx.out.fact(
        "mandate",
        &record,
        format!("state {state}\n{}", table(&mandate)),
    );
    Ok(())
}

fn json(mandate: &Mandate) -> serde_json::Value {
    serde_json::json!({
        "sequence": mandate.sequence,
        "created": mandate.created.to_string(),
        "need": mandate.need.k,
        "of": mandate.need.n,
        "abroad": mandate.abroad.as_ref().map_or(0, |rule| rule.k),
        "generations": mandate.vault.len(),
        "officers": mandate.officer.iter().map(|row| serde_json::json!({
            "name": row.name.as_str(), "territory": row.territory.to_string(), "key": row.key.to_string(),
        })).collect::<Vec<_>>(),
        "embassies": mandate.embassy.iter().map(|row| serde_json::json!({
            "label": row.label.as_str(), "jurisdiction": row.jurisdiction.as_str(), "class": row.class.as_str(),
        })).collect::<Vec<_>>(),
        "writers": mandate.writer.iter().map(|row| row.name.as_str()).collect::<Vec<_>>(),
        "clients": mandate.client.iter().map(|row| row.name.as_str()).collect::<Vec<_>>(),
        "registries": mandate.registry.iter().map(|row| serde_json::json!({
            "id": row.id, "tier": row.tier.to_string(), "class": row.class.as_str(), "writer": row.writer.as_str(),
            "embassy": row.embassy.as_str(),
        })).collect::<Vec<_>>(),
        "witness": mandate.witness.as_ref().map(ToString::to_string),
    })
}

fn table(mandate: &Mandate) -> String {
    let mut lines = vec![format!(
        "mandate {} of {}",
        mandate.sequence, mandate.created
    )];
    for territory in [Territory::Home, Territory::Abroad] {
        let names: Vec<_> = mandate
            .officer
            .iter()
            .filter(|row| row.territory == territory)
            .map(|row| row.name.as_str())
            .collect();
        lines.push(format!(
            "officers {:<7}{}",
            territory.to_string(),
            names.join(" ")
        ));
    }
    let abroad = mandate.abroad.as_ref().map_or(0, |rule| rule.k);
    lines.push(format!(
        "opened by      {}, {abroad} from abroad; {} generations",
        format_args!("{} of {}", mandate.need.k, mandate.need.n),
        mandate.vault.len()
    ));
    for row in &mandate.threshold {
        lines.push(format!(
            "{:<15}{} approvals, {} from abroad",
            row.act.to_string(),
            row.need,
            row.abroad
        ));
    }
    for row in &mandate.embassy {
        lines.push(format!(
            "embassy {:<7}{} {}",
            row.label.to_string(),
            row.jurisdiction,
            row.class
        ));
    }
    for row in &mandate.retention {
        lines.push(format!("keeps          {} {}", row.class, row.keep));
    }
    for row in &mandate.registry {
        lines.push(format!(
            "{}       {} {} written by {} to {}",
            row.id, row.tier, row.class, row.writer, row.embassy
        ));
    }
    lines.push(match &mandate.witness {
        Some(witness) => format!("witnessed by   {witness}"),
        None => "unwitnessed".to_owned(),
    });
    lines.join("\n")
}
