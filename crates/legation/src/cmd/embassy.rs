//! `legation embassy`: receives, verifies and keeps, unattended.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use legation_core::statement::Time;
use legation_embassy::{
    EmbassyConfig, EmbassyError, EmbassyIdentity, EmbassyServer, HostedState, Limits, Reserve,
};

use crate::charter::Charter;
use crate::config;
use crate::config::units::Share;
use crate::ctx::Ctx;
use crate::exit::{Code, Failure};
use crate::identity::{Identity, Role};

/// The server has threads of its own; this one only waits for the end.
const IDLE: Duration = Duration::from_secs(3600);

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  legation embassy --init --config /etc/legation/embassy.toml\n  legation embassy --config /etc/legation/embassy.toml"
)]
pub struct Args {
    /// Make the identity that the configuration names, and its card for the ceremony, then exit
    #[arg(long)]
    pub init: bool,
}

/// Runs the embassy until it is told to stop.
///
/// # Errors
/// Code 2 for bad configuration; 1 when a port is taken; 4 when the store does not verify.
pub fn run(args: &Args, ctx: &Ctx) -> Result<(), Failure> {
    let path = ctx.config_or(config::embassy::USUAL);
    if args.init {
        return super::init(ctx, &path, Role::Embassy);
    }
    let config = config::embassy::Embassy::load(&path)?;
    let identity_path = ctx.identity.as_ref().unwrap_or(&config.identity.file);
    let identity = Identity::load(identity_path, Role::Embassy)?;
    crate::harden::open_files();
    let server = EmbassyServer::start(server_config(&config, &identity)?)?;
    for state in server.states() {
        tracing::info!(%state, label = config.label, "the embassy serves, sealed");
    }
    ctx.out.record(
        "serving",
        &serde_json::json!({
            "label": config.label,
            "states": server.states().iter().map(ToString::to_string).collect::<Vec<_>>(),
            "ports": server.local_addrs().iter().map(SocketAddr::port).collect::<Vec<_>>(),
        }),
    );
    while !ctx.stop.wait(IDLE) {}
    server.shutdown();
    Ok(())
}

/// Where it listens.
pub(super) fn listen(config: &config::embassy::Embassy) -> Result<Vec<SocketAddr>, Failure> {
    let mut listen = Vec::new();
    for address in &config.listen {
        let addresses = address.to_socket_addrs().map_err(|error| {
            Failure::usage(format!("listen: {address:?}: {error}"))
                .hint("write it as \"[::]:7443\"")
        })?;
        listen.extend(addresses);
    }
    Ok(listen)
}

/// Until when the machine's clock is believed whatever the log says.
pub(super) fn clock_checked(config: &config::embassy::Embassy) -> Result<Option<Time>, Failure> {
    let parse = |text: &String| {
        text.parse().map_err(|_| {
            Failure::usage(format!("clock_checked: {text:?} is not a time"))
                .hint("write it as \"2026-11-22T09:00:00Z\"")
        })
    };
    config.clock_checked.as_ref().map(parse).transpose()
}

pub(super) fn no_state() -> Failure {
    Failure::usage("the configuration names no [[state]]").hint("add its mandate and quota")
}

fn server_config(
    config: &config::embassy::Embassy,
    identity: &Identity,
) -> Result<EmbassyConfig, Failure> {
    let listen = listen(config)?;
    let mut states = Vec::new();
    let mut tls_name = config.label.clone();
    for state in &config.state {
        let charter = Charter::load(&state.mandate)?;
        charter.embassy(&config.label)?;
        tls_name = charter.state.to_string();
        states.push(HostedState {
            mandate: charter.signed,
            keyring: charter.keys,
            quota: Some(state.quota.0),
        });
    }
    if states.is_empty() {
        return Err(no_state());
    }
    Ok(EmbassyConfig {
        label: config.label.clone(),
        listen,
        identity: EmbassyIdentity {
            signing: identity.signing_key()?,
            log: identity.log_seed()?,
            tls: identity.tls_identity(&tls_name)?,
        },
        store: config.store.path.clone(),
        reserve: match config.store.reserve {
            Share::Percent(percent) => Reserve::Percent(u8::try_from(percent).unwrap_or(100)),
            Share::Size(size) => Reserve::Bytes(size.0),
        },
        states,
        limits: Limits {
            clock_checked: clock_checked(config)?,
            ..Limits::default()
        },
    })
}

impl From<EmbassyError> for Failure {
    fn from(error: EmbassyError) -> Failure {
        Failure::new(Code::from_number(error.exit_code()), error)
    }
}
