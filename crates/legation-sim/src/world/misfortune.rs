//! What goes wrong.

use super::*;

const DAY: i64 = 24 * 3_600_000;
/// An embassy may have been off for less than this, in milliseconds: a clock that is further ahead is not believed.
pub(super) const BELIEVED: i64 = 399 * DAY;

impl World {
    /// Something goes wrong, or not.
    pub(super) fn misfortune(&mut self) -> Checked {
        let profile = self.profile;
        if self.dice.permille(profile.embassy_outages) {
            self.embassy_fails();
        }
        if self.dice.permille(profile.agent_outages) {
            let n = self.dice.roll(self.agents.len());
            self.agent_fails(n);
        }
        if self.dice.permille(profile.set_back) {
            let n = self.dice.roll(self.agents.len());
            self.set_back(n)?;
        }
        if self.dice.permille(profile.clock) {
            self.clock_jumps();
        }
        if self.dice.permille(profile.full) {
            let disk = &self.site.disk;
            disk.set_capacity(disk.used() + self.dice.roll(CRUMBS as usize) as u64);
            self.trace.say(format_args!("the embassy's disk fills"));
        } else if self.dice.percent(4) {
            self.site.disk.set_capacity(u64::MAX);
        }
        if self.dice.permille(10) {
            self.asks.cut();
            self.answers.cut();
            self.trace.say(format_args!("the line is cut"));
        }
        Ok(())
    }

    pub(super) fn embassy_fails(&mut self) {
        self.counts.embassy_crashes += 1;
        match self.dice.roll(4) {
            0 => {
                self.site.kill();
                self.trace.say(format_args!("the embassy is killed"));
            }
            1 => {
                self.site.lose_power();
                self.trace.say(format_args!("the embassy loses power"));
            }
            _ => {
                let changes = self.dice.between(0, FUSE);
                self.site.disk.cut_after(changes);
                self.trace.say(format_args!(
                    "the embassy will lose power in {changes} changes"
                ));
            }
        }
    }

    pub(super) fn agent_fails(&mut self, n: usize) {
        self.counts.agent_crashes += 1;
        let agent = &mut self.agents[n];
        match self.dice.roll(4) {
            0 => {
                agent.kill();
                self.trace.say(format_args!("agent {n} is killed"));
            }
            1 => {
                agent.kill();
                agent.disk.power_cycle();
                self.trace.say(format_args!("agent {n} loses power"));
            }
            _ => {
                let changes = self.dice.between(0, FUSE);
                agent.disk.cut_after(changes);
                self.trace.say(format_args!(
                    "agent {n} will lose power in {changes} changes"
                ));
            }
        }
    }

    pub(super) fn set_back(&mut self, n: usize) -> Checked {
        let agent = &mut self.agents[n];
        let did = match self.dice.roll(4) {
            0 => {
                agent.kill();
                agent.keep_past()
            }
            1 => agent.freeze(),
            _ => {
                let did = agent.set_back(&mut self.audit);
                if matches!(did, Ok(Some(_))) {
                    self.counts.set_back += 1;
                }
                did
            }
        };
        self.say(n, did)?;
        // What a machine does next its clone does as well, with what its registry then writes.
        let now = self.now;
        self.tell(n, |agent, _| agent.write())?;
        self.tell(n, |agent, audit| agent.pump(now, audit))
    }

    pub(super) fn clock_jumps(&mut self) {
        let jump = *self.dice.pick(&[1, 40, 400, 3_000, -1, -40, -400, -3_000]);
        self.site.off = match self.dice.roll(3) {
            0 => 0,
            _ => jump * DAY,
        };
        self.clock();
        let days = self.site.off / DAY;
        self.trace
            .say(format_args!("the embassy's clock is {days} days off"));
    }
}
