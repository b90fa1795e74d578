//! `legation status --waves`: how far each registry has come on its way to being protected, wave by wave, with the
//! entries of the log that say so and what is lacking for the next stage.

use legation_core::id::RegistryId;
use legation_core::policy::{RegistryState, Stage};

use crate::ctx::Ctx;
use crate::desk::Desk;
use crate::exit::{Code, Failure};
use crate::officers::now;

/// Shows it.
///
/// # Errors
/// No embassy (10); a log that does not verify (4).
pub fn run(ctx: &Ctx) -> Result<(), Failure> {
    let desk = Desk::open(ctx)?;
    desk.ledger.clean()?;
    let (state, now) = (desk.state(), now()?);
    let mut all: Vec<_> = state.registries().collect();
    all.sort_by_key(|(id, registry)| (desk.names.wave(*id), registry.row.tier.to_string(), *id));
    let mut last = None;
    for (id, registry) in all {
        let standing = state.standing(id, now).ok_or_else(|| {
            Failure::new(Code::Refused, format!("the mandate names no registry {id}"))
        })?;
        let (name, wave) = (desk.names.of(id), desk.names.wave(id));
        if last != Some(wave) {
            last = Some(wave);
            ctx.out.line(if wave == 0 {
                "no wave".to_owned()
            } else {
                format!("wave {wave}")
            });
        }
        let evidence: Vec<_> = standing
            .evidence
            .iter()
            .map(|one| serde_json::json!({ "stage": one.stage.to_string(), "entry": one.entry, "what": one.what }))
            .collect();
        let mut text = format!(
            "  {name:<14} {id} {:<3} {}",
            registry.row.tier.to_string(),
            stages(standing.stage)
        );
        for one in standing
            .evidence
            .iter()
            .filter(|one| one.stage == standing.stage)
        {
            text.push_str(&format!("\n    entry {}: {}", one.entry, one.what));
        }
        if let Some(lacks) = &standing.lacks {
            text.push_str(&format!("\n    lacks: {}", lacks.replace("NAME", &name)));
        }
        ctx.out.fact(
            "standing",
            &serde_json::json!({
                "registry": name, "id": id, "wave": wave, "tier": registry.row.tier.to_string(),
                "stage": standing.stage.to_string(), "evidence": evidence, "lacks": standing.lacks,
            }),
            text,
        );
    }
    Ok(())
}

/// All stages up to the one that is reached.
fn stages(reached: Stage) -> String {
    let all = [
        Stage::Enrolled,
        Stage::Seeding,
        Stage::Shadow,
        Stage::Verified,
        Stage::Protected,
    ];
    let names: Vec<_> = all
        .into_iter()
        .filter(|stage| *stage <= reached)
        .map(|stage| stage.to_string())
        .collect();
    names.join(" > ")
}

/// Says what the log holds against the newest version of a registry.
pub fn doubts(name: &str, id: RegistryId, registry: &RegistryState, ctx: &Ctx) {
    let Some(head) = registry.head() else { return };
    for (entry, doubt) in registry.doubts_about(head.commit.version) {
        ctx.out.fact(
            "doubt",
            &serde_json::json!({
                "registry": name, "id": id, "version": head.commit.version, "cause": doubt.cause.to_string(), "entry": entry,
            }),
            format!(
                "  {name} {} is flagged: {} (entry {entry}); legation bisect {name} names the last good one",
                head.commit.version, doubt.cause
            ),
        );
    }
}
