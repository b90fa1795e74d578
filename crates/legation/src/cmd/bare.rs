//! What a start from nothing still lacks of a registry, and its catalogue entry: from the log for whoever has no grant,
//! and from what is sealed beside the data for whoever has one.

use std::path::Path;

use legation_core::id::RegistryId;
use legation_core::policy::{RegistryState, Stage};
use legation_core::statement::Time;

use crate::ctx::Ctx;
use crate::desk::Desk;
use crate::exit::{Code, Failure};
use crate::recover::grant::{self, Asked};
use crate::recover::sealed::{self, Sealed};
use crate::recover::wanted::Wanted;

/// Opens what is sealed beside a registry's data, under a grant.
///
/// # Errors
/// As [`grant::open`].
pub fn open(desk: &Desk, name: &str, order: &Path) -> Result<Sealed, Failure> {
    let asked = Asked {
        name,
        version: "latest",
        order: Some(order),
    };
    let (job, keep) = grant::open(desk, asked)?;
    Ok(Sealed::of(job.open(&keep)?.root()))
}

/// Prints a registry's catalogue entry.
///
/// # Errors
/// Code 1 when its version has none, or one that is malformed.
pub fn catalogue(name: &str, sealed: &Sealed, ctx: &Ctx) -> Result<(), Failure> {
    let Some(entry) = &sealed.catalogue else {
        let why = sealed.malformed.first().cloned();
        return Err(Failure::failed(why.unwrap_or_else(|| {
            format!("the version of {name} was sealed without a catalogue entry")
        })));
    };
    let mut value = sealed::json(entry);
    value["registry"] = serde_json::json!(name);
    let lines: Vec<String> = value
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, value)| {
            !value.is_null()
                && *value != ""
                && *value != 0
                && value.as_array().is_none_or(|list| !list.is_empty())
        })
        .map(|(key, value)| {
            format!(
                "{key:<14} {}",
                value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned)
            )
        })
        .collect();
    ctx.out.fact("catalogue", &value, lines.join("\n"));
    Ok(())
}

/// Something that is lacking.
struct Lack {
    kind: &'static str,
    what: String,
    fix: String,
}

/// Says what a start of a registry from bare metal still lacks: data, schema, software, configuration, runbook and
/// what it depends on.
///
/// # Errors
/// Code 7 when something is lacking.
pub fn metal(
    desk: &Desk,
    id: RegistryId,
    registry: &RegistryState,
    sealed: Option<&Sealed>,
    now: Time,
    ctx: &Ctx,
) -> Result<(), Failure> {
    let name = desk.names.of(id);
    let mut lacks = from_log(desk, id, &name, now);
    let mut there = Vec::new();
    match sealed {
        Some(sealed) => from_sealed(desk, &name, registry, sealed, now, &mut lacks, &mut there),
        None => lacks.push(Lack {
            kind: "unknown",
            what: "software, configuration, runbook and dependencies are sealed, and nobody opened them here".into(),
            fix: format!("legation versions {name} --bare-metal --order grant.txt"),
        }),
    }
    if let Some(wanted) = sealed.and_then(|sealed| Wanted::of(id, sealed)) {
        ctx.out.record("needs", &wanted);
    }
    for what in &there {
        ctx.out.fact(
            "there",
            &serde_json::json!({ "registry": name, "what": what }),
            format!("{name:<12} there  {what}"),
        );
    }
    for lack in &lacks {
        ctx.out.fact(
            "lacks",
            &serde_json::json!({ "registry": name, "kind": lack.kind, "what": lack.what, "fix": lack.fix }),
            format!("{name:<12} lacks  {}: {}; {}", lack.kind, lack.what, lack.fix),
        );
    }
    if lacks.is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        Code::ObjectiveMissed,
        format!(
            "{name} lacks {} for a start from bare metal",
            match lacks.len() {
                1 => "one thing".to_owned(),
                n => format!("{n} things"),
            }
        ),
    ))
}

/// What the log alone tells.
fn from_log(desk: &Desk, id: RegistryId, name: &str, now: Time) -> Vec<Lack> {
    let Some(standing) = desk.state().standing(id, now) else {
        return Vec::new();
    };
    let kind = match standing.stage {
        Stage::Enrolled | Stage::Seeding => "data",
        Stage::Shadow | Stage::Verified => "proof",
        Stage::Protected => return Vec::new(),
    };
    let what = standing.lacks.unwrap_or_default().replace("NAME", name);
    vec![Lack {
        kind,
        what: format!("it is {}", standing.stage),
        fix: what,
    }]
}

fn from_sealed(
    desk: &Desk,
    name: &str,
    registry: &RegistryState,
    sealed: &Sealed,
    now: Time,
    lacks: &mut Vec<Lack>,
    there: &mut Vec<String>,
) {
    for why in &sealed.malformed {
        lacks.push(Lack {
            kind: "catalogue",
            what: why.clone(),
            fix: "capture it anew".into(),
        });
    }
    if let Some(facts) = &sealed.facts {
        there.push(format!(
            "schema and roles, in the base; PostgreSQL {} from {}",
            facts.major, facts.version
        ));
        there.push(format!(
            "configuration: {} settings that change what data mean",
            facts.settings.len()
        ));
        let list = |set: &std::collections::BTreeSet<String>| {
            set.iter().cloned().collect::<Vec<_>>().join(", ")
        };
        if !sealed.needs.extensions.is_empty() {
            there.push(format!(
                "extensions to be installed: {}",
                list(&sealed.needs.extensions)
            ));
        }
        if !sealed.needs.preload.is_empty() {
            there.push(format!(
                "loaded at home and not abroad: {}",
                list(&sealed.needs.preload)
            ));
        }
    }
    let Some(entry) = &sealed.catalogue else {
        lacks.push(Lack {
            kind: "catalogue",
            what: "the version was sealed without an entry".into(),
            fix: "run a newer agent, and capture it: legation capture NAME --full"
                .replace("NAME", name),
        });
        return;
    };
    let fill = |field: &str| {
        format!(
            "fill in {field} in agent.toml and restart the agent; it is sealed with the next version"
        )
    };
    let empty = [
        (
            "owner",
            entry.owner.is_empty(),
            "nobody is named who answers for it",
            "owner",
        ),
        (
            "runbook",
            entry.runbook.is_empty(),
            "nobody wrote how a person starts it",
            "start.runbook",
        ),
        (
            "software",
            entry.software.is_empty() && sealed.facts.is_none(),
            "no software is named that reads it",
            "start.software",
        ),
        (
            "probe",
            sealed.questions.is_empty() && sealed.facts.is_some(),
            "no invariant says whether it is right",
            "start.invariant",
        ),
    ];
    for (kind, lacking, what, field) in empty {
        if lacking {
            lacks.push(Lack {
                kind,
                what: what.into(),
                fix: fill(field),
            });
        }
    }
    for one in &entry.software {
        let major = sealed.facts.as_ref().map(|facts| facts.major.to_string());
        let is_server = matches!(one.name.as_str(), "postgresql" | "postgres");
        if is_server
            && !one.version.is_empty()
            && major
                .as_ref()
                .is_some_and(|major| one.version.split('.').next() != Some(major))
        {
            lacks.push(Lack {
                kind: "software",
                what: format!(
                    "the catalogue names {} {}, and the base is of {}",
                    one.name,
                    one.version,
                    major.unwrap_or_default()
                ),
                fix: fill("start.software"),
            });
        } else {
            there.push(
                format!("software to be installed: {} {}", one.name, one.version)
                    .trim_end()
                    .to_owned(),
            );
        }
    }
    for service in &entry.services {
        there.push(format!("service to be started: {service}"));
    }
    for need in &entry.depends_on {
        let standing = desk.state().standing(need.id, now);
        let stage = standing.as_ref().map(|one| one.stage);
        if stage.is_none_or(|stage| stage < Stage::Shadow) {
            lacks.push(Lack {
                kind: "dependency",
                what: format!(
                    "it needs {} ({}), which is {}",
                    need.name,
                    need.id,
                    stage.map_or_else(
                        || "not in the mandate".to_owned(),
                        |stage| stage.to_string()
                    )
                ),
                fix: standing
                    .and_then(|one| one.lacks)
                    .unwrap_or_default()
                    .replace("NAME", &need.name),
            });
        } else {
            there.push(format!("what it depends on: {}", need.name));
        }
    }
    let mandate = desk.state().mandate();
    if let Some(embassy) = mandate.embassy(&registry.row.embassy)
        && !entry.classes.is_empty()
        && !entry
            .classes
            .iter()
            .any(|class| class == embassy.class.as_str())
    {
        lacks.push(Lack {
            kind: "placement",
            what: format!(
                "it may go to {}, and is kept at a {} embassy",
                entry.classes.join(", "),
                embassy.class
            ),
            fix: "the mandate decides where it is kept".into(),
        });
    }
}
