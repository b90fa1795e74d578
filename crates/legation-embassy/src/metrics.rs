//! What an embassy's operator may measure. States are named by their fingerprint and registries by their opaque ids: the
//! host learns no more from this than from the directory of the store.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;

use crate::exposition::{Exposition, Kind, Watched, seconds};
use crate::hosted::Embassy;

/// Counted since the process began. Routes and codes are few, so the table is small.
#[derive(Debug, Default)]
pub struct Counters {
    requests: Mutex<BTreeMap<(&'static str, &'static str, u16), u64>>,
    /// Handshakes that ended with a known key.
    pub greeted: AtomicU64,
    /// Handshakes that did not.
    pub strangers: AtomicU64,
    /// Connections closed because a bound was reached.
    pub beyond: AtomicU64,
}

impl Counters {
    fn request(&self, verb: &'static str, route: &'static str, code: u16) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((verb, route, code)).or_default() += 1;
    }
}

/// Counts one of a counter's things.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// What a path asks for, in a word: paths hold digests, and strangers' paths hold anything.
fn route(path: &str) -> &'static str {
    const NOUNS: [&str; 9] = [
        "object",
        "attachment",
        "statement",
        "journal",
        "log",
        "release",
        "status",
        "healthz",
        "readyz",
    ];
    let mut parts = path.split('/').skip(1);
    let noun = match parts.next() {
        Some("v1") => parts.nth(1),
        other => other,
    };
    let known = |noun: &&str| NOUNS.into_iter().find(|known| known == noun);
    noun.as_ref().and_then(known).unwrap_or("none")
}

/// Counts a request by the route that it matched, never by its path: paths hold digests.
pub async fn counted(
    State(embassy): State<std::sync::Arc<Embassy>>,
    request: Request,
    next: Next,
) -> Response {
    let route = route(request.uri().path());
    // Verbs that no route has are one, or a stranger could make many.
    let verb = match request.method().as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "PUT" => "PUT",
        "POST" => "POST",
        _ => "other",
    };
    let response = next.run(request).await;
    embassy
        .counters
        .request(verb, route, response.status().as_u16());
    response
}

impl Watched for Embassy {
    fn metrics(&self) -> String {
        let mut out = Exposition::default();
        out.gauge(
            "legation_embassy_info",
            "The embassy's label and its software's version.",
            &[
                ("label", self.label()),
                ("version", env!("CARGO_PKG_VERSION")),
            ],
            1.0,
        );
        out.gauge(
            "legation_embassy_start_timestamp_seconds",
            "When this process began.",
            &[],
            seconds(self.since().millis()),
        );
        self.requests(&mut out);
        self.states_served(&mut out);
        self.registries_kept(&mut out);
        out.finish()
    }

    fn ready(&self) -> Result<(), String> {
        match Embassy::ready(self) {
            true => Ok(()),
            false => Err("a state takes no statements".into()),
        }
    }
}

impl Embassy {
    fn requests(&self, out: &mut Exposition) {
        let counters = &self.counters;
        let requests = counters.requests.lock();
        let requests = requests.unwrap_or_else(PoisonError::into_inner).clone();
        out.family(
            "legation_embassy_requests_total",
            Kind::Counter,
            "Requests by verb, route and code.",
        );
        for ((verb, route, code), n) in &requests {
            let code = code.to_string();
            let labels = [("method", *verb), ("route", *route), ("code", &*code)];
            out.sample(&labels, *n as f64);
        }
        out.family(
            "legation_embassy_handshakes_total",
            Kind::Counter,
            "TLS handshakes: with a key that a state knows, with none, or closed because a bound was reached.",
        );
        for (result, counter) in [
            ("known", &counters.greeted),
            ("unknown", &counters.strangers),
            ("bound", &counters.beyond),
        ] {
            let n = counter.load(Ordering::Relaxed);
            out.sample(&[("result", result)], n as f64);
        }
    }

    /// One sample for each state that should be served, or that is.
    fn states_served(&self, out: &mut Exposition) {
        out.family(
            "legation_embassy_state_open",
            Kind::Gauge,
            "Whether a state is served and takes statements: 1, or 0.",
        );
        for state in self.configured() {
            let open = self.hosted(&state).is_some_and(|it| it.sequencer.ready());
            out.sample(&[("state", &state.to_string())], f64::from(u8::from(open)));
        }
        let served: Vec<_> = self.states();
        let served: Vec<_> = served
            .iter()
            .filter_map(|state| Some((state.to_string(), self.hosted(state)?)))
            .collect();
        let mut each = |name, kind, help: &str, value: &dyn Fn(&crate::hosted::Hosted) -> f64| {
            out.family(name, kind, help);
            for (state, hosted) in &served {
                out.sample(&[("state", state)], value(hosted));
            }
        };
        each(
            "legation_embassy_free_bytes",
            Kind::Gauge,
            "Bytes that objects of this state may still take, below quota and reserve.",
            &|it| it.site.keep.free() as f64,
        );
        each(
            "legation_embassy_used_bytes",
            Kind::Gauge,
            "Bytes that this state's objects, attachments and releases take.",
            &|it| it.site.keep.used() as f64,
        );
        each(
            "legation_embassy_log_entries",
            Kind::Gauge,
            "Entries of the log.",
            &|it| it.site.checkpoint().size() as f64,
        );
        each(
            "legation_embassy_log_checkpoint_timestamp_seconds",
            Kind::Gauge,
            "When the log's newest checkpoint was signed.",
            &|it| it.site.checkpoint().time() as f64,
        );
        each(
            "legation_embassy_log_received_timestamp_seconds",
            Kind::Gauge,
            "When the log's newest entry was received.",
            &|it| seconds(it.site.fold().last_received().millis()),
        );
        each(
            "legation_embassy_vault_generations_left",
            Kind::Gauge,
            "Vault generations that are left for new epochs.",
            &|it| it.site.fold().generations_left() as f64,
        );
        each(
            "legation_embassy_orders_open",
            Kind::Gauge,
            "Activations that were ordered and are not sealed.",
            &|it| {
                let fold = it.site.fold();
                let activations = fold.orders().filter(|order| {
                    order.sealed.is_none()
                        && order.order.act == legation_core::statement::Act::Activate
                });
                activations.count() as f64
            },
        );
        each(
            "legation_embassy_statements_refused_total",
            Kind::Counter,
            "Statements that the mandate did not allow, since the process began.",
            &|it| it.sequencer.refused() as f64,
        );
    }

    /// One sample for each registry of each state, by its opaque id.
    fn registries_kept(&self, out: &mut Exposition) {
        let folds: Vec<_> = self
            .states()
            .iter()
            .filter_map(|id| self.hosted(id))
            .collect();
        let folds: Vec<_> = folds.iter().map(|it| it.site.fold()).collect();
        type Value<'a> = &'a dyn Fn(&legation_core::policy::RegistryState) -> Option<f64>;
        let mut each = |name, kind, help: &str, value: Value<'_>| {
            out.family(name, kind, help);
            for fold in &folds {
                let state = fold.id().to_string();
                for (id, registry) in fold.registries() {
                    if let Some(value) = value(registry) {
                        out.sample(&[("state", &state), ("registry", &id.to_string())], value);
                    }
                }
            }
        };
        each(
            "legation_embassy_registry_covered_timestamp_seconds",
            Kind::Gauge,
            "As of when everything that the source had is here, by the log; absent before the first version.",
            &|it| it.head().and(it.covered()).map(|at| seconds(at.millis())),
        );
        each(
            "legation_embassy_registry_versions",
            Kind::Gauge,
            "Versions in the log.",
            &|it| Some(it.versions.len() as f64),
        );
        each(
            "legation_embassy_registry_epochs",
            Kind::Gauge,
            "Epochs of keys in the log.",
            &|it| Some(it.epochs.len() as f64),
        );
        each(
            "legation_embassy_registry_gaps",
            Kind::Gauge,
            "Holes that the log tells of.",
            &|it| Some(it.gaps.len() as f64),
        );
        each(
            "legation_embassy_registry_doubts",
            Kind::Gauge,
            "Ranges without zero loss that the log tells of.",
            &|it| Some(it.doubts.len() as f64),
        );
        each(
            "legation_embassy_registry_fenced",
            Kind::Gauge,
            "Whether home is fenced: 1, or 0.",
            &|it| Some(f64::from(u8::from(it.writer.is_none()))),
        );
    }
}
