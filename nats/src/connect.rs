//! The connection to a region's servers.
//!
//! Connecting is tried a limited number of times and then fails with an error that says what to do; a process that must
//! come up without its servers asks for [`Options::background`] instead. Once connected, the client reconnects for ever,
//! with delays that are spread so that a fleet does not return all at once. What happens to the connection is logged:
//! denied permissions among it, which a caller sees only as a request that times out.

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::{self, context::ContextBuilder};
use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, ServerError};
use peal_common::settings::{self, Settings, SettingsError};
use tokio_util::task::AbortOnDropHandle;

use crate::acks::Acks;
use crate::leave::{self, Turns};
use crate::subjects::Region;

/// How long a request may take, and so how long a gateway waits for an acknowledgement of the intake.
pub const REQUEST_LIMIT: Duration = Duration::from_secs(2);

/// The longest delay between two attempts to connect.
const MAX_DELAY: Duration = Duration::from_secs(4);
/// The delay before the second attempt; it doubles from there.
const FIRST_DELAY: Duration = Duration::from_millis(50);
/// How often the server is asked whether it is there. The client gives a server up that left two of these unanswered,
/// so that one that stands still is noticed within a few seconds.
const PING_INTERVAL: Duration = Duration::from_secs(2);

/// How a client proves who it is.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Auth {
    /// Not at all.
    #[default]
    None,
    /// By user and password.
    Password {
        /// The user's name.
        user: String,
        /// The password.
        password: String,
    },
    /// By a token.
    Token(String),
    /// By a `.creds` file: a user's JWT and seed.
    CredentialsFile(PathBuf),
    /// By the content of a `.creds` file.
    Credentials(String),
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Auth::None => f.write_str("None"),
            Auth::Password { user, .. } => {
                f.debug_struct("Password").field("user", user).finish_non_exhaustive()
            }
            Auth::Token(_) => f.write_str("Token(..)"),
            Auth::CredentialsFile(path) => f.debug_tuple("CredentialsFile").field(path).finish(),
            Auth::Credentials(_) => f.write_str("Credentials(..)"),
        }
    }
}

/// Where and how to connect.
#[derive(Debug, Clone)]
pub struct Options {
    /// `nats://host:port` or `tls://host:port`, any number of servers of one region; without credentials.
    pub urls: Vec<String>,
    /// The region; its streams are addressed by their JetStream domain, so that a request can't reach another region's.
    pub region: Region,
    /// The other regions whose state this region has beside its own.
    pub others: Vec<Region>,
    /// Whether this is no region but the hub, whose streams hold what all regions wrote.
    pub is_hub: bool,
    /// The name that the servers show for this connection, such as `peal-gateway`.
    pub name: String,
    /// Who connects.
    pub auth: Auth,
    /// A PEM file with the authorities that signed the servers' certificates, beside the system's.
    pub tls_ca: Option<PathBuf>,
    /// The prefix of the subjects on which answers arrive; permissions can then be given per process.
    pub inbox_prefix: Option<String>,
    /// How long a request may take.
    pub request_limit: Duration,
    /// How long one attempt to connect may take.
    pub connect_limit: Duration,
    /// How often connecting is tried, at least 1.
    pub attempts: u32,
    /// Return at once and connect in the background, for as long as it takes; refused credentials are then logged and
    /// tried again like everything else. [`Connection::is_connected`] tells when it stands.
    pub background: bool,
    /// The seed of the delays between attempts. Different processes should have different ones.
    pub jitter_seed: u64,
}

impl Options {
    /// Connects to `urls` without credentials: 5 attempts of 5 s at most, requests of [`REQUEST_LIMIT`].
    #[must_use]
    pub fn new(urls: impl IntoIterator<Item = impl Into<String>>, region: Region, name: &str) -> Self {
        Options {
            urls: urls.into_iter().map(Into::into).collect(),
            region,
            others: Vec::new(),
            is_hub: false,
            name: name.to_owned(),
            auth: Auth::None,
            tls_ca: None,
            inbox_prefix: None,
            request_limit: REQUEST_LIMIT,
            connect_limit: Duration::from_secs(5),
            attempts: 5,
            background: false,
            jitter_seed: RandomState::new().hash_one(name),
        }
    }

    /// What the settings of a process say, for a connection called `name`.
    ///
    /// # Errors
    /// [`SettingsError`] when a file that they name can't be read, or they say two ways to sign in.
    pub fn from_settings(settings: &Settings, name: &str) -> Result<Self, SettingsError> {
        let nats = &settings.nats;
        let password =
            settings::secret("nats.password_file", nats.password.as_ref(), nats.password_file.as_deref())?;
        let credentials = settings::secret(
            "nats.credentials_file",
            nats.credentials.as_ref(),
            nats.credentials_file.as_deref(),
        )?;
        let wrong = |text: &str| Err(SettingsError::Invalid(text.to_owned()));
        let auth = match (&nats.user, password, credentials) {
            (None, None, None) => Auth::None,
            (Some(user), Some(password), None) => {
                Auth::Password { user: user.clone(), password: password.expose().to_owned() }
            }
            (None, None, Some(credentials)) => Auth::Credentials(credentials.expose().to_owned()),
            (_, _, Some(_)) => return wrong("nats: write either user and password or credentials, not both"),
            (Some(_), None, None) => {
                return wrong("nats.user: write nats.password or nats.password_file too");
            }
            (None, Some(_), None) => return wrong("nats.password: write nats.user too"),
        };
        Ok(Options {
            auth,
            tls_ca: nats.tls_ca_file.clone(),
            request_limit: Duration::from_millis(nats.request_timeout_ms),
            others: settings.other_regions(),
            is_hub: settings.is_hub(),
            ..Options::new(nats.urls.iter(), settings.region.name.clone(), name)
        })
    }
}

/// A connection to a region.
#[derive(Debug, Clone)]
pub struct Connection {
    /// For core NATS.
    pub client: Client,
    /// For the region's JetStream domain.
    pub jetstream: jetstream::Context,
    /// The region.
    pub region: Region,
    /// The other regions whose state this region has beside its own.
    pub others: Arc<[Region]>,
    /// Whether this is no region but the hub, whose streams hold what all regions wrote.
    pub is_hub: bool,
    pub(crate) acks: Arc<Acks>,
    /// Where there is more than one server.
    _leaving: Option<Arc<AbortOnDropHandle<()>>>,
}

/// How often a client has connected.
pub(crate) fn connects(client: &Client) -> u64 {
    client.statistics().connects.load(std::sync::atomic::Ordering::Relaxed)
}

impl Connection {
    /// The same connection for the streams of another domain that is linked with this one, such as the hub's.
    #[must_use]
    pub fn in_domain(&self, domain: &Region) -> Self {
        let jetstream = context(self.client.clone(), domain, REQUEST_LIMIT);
        Connection { jetstream, region: domain.clone(), others: Arc::new([]), ..self.clone() }
    }

    /// How often the connection has been made, the first time included. Another number means that the server may have
    /// been away, or that it is another one.
    #[must_use]
    pub fn connects(&self) -> u64 {
        connects(&self.client)
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A URL can't be used.
    #[error("'{url}' is no server address: write nats://host:port or tls://host:port")]
    Url {
        /// The URL.
        url: String,
    },
    /// There is no URL at all.
    #[error("no NATS server is configured: write at least one nats://host:port")]
    NoUrl,
    /// A URL holds a user or password, which would be ignored and might be logged.
    #[error(
        "a NATS server address must not hold credentials: configure user and password, a token or a creds file"
    )]
    CredentialsInUrl,
    /// The credentials file can't be used.
    #[error("cannot use the credentials file {path}", path = .path.display())]
    CredentialsFile {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The given credentials can't be used.
    #[error("nats.credentials does not hold the content of a .creds file")]
    Credentials(#[source] std::io::Error),
    /// The authority's certificate can't be read, or the server's is not signed by it.
    #[error("no TLS connection to {urls}: check the servers' certificates and the configured authority")]
    Tls {
        /// The servers that were tried.
        urls: String,
        /// What async-nats says.
        #[source]
        source: async_nats::ConnectError,
    },
    /// The servers refuse these credentials.
    #[error(
        "the NATS servers at {urls} refuse these credentials: check user and password, token or creds file"
    )]
    Refused {
        /// The servers that were tried.
        urls: String,
        /// What async-nats says.
        #[source]
        source: async_nats::ConnectError,
    },
    /// The client was closed while it connected.
    #[error("the connection was closed at once")]
    Closed(#[source] async_nats::SubscribeError),
    /// No server answers.
    #[error(
        "no NATS server answers at {urls} after {attempts} attempts: is it running, and is the address right?"
    )]
    Unreachable {
        /// The servers that were tried.
        urls: String,
        /// How often.
        attempts: u32,
        /// What async-nats says about the last attempt.
        #[source]
        source: async_nats::ConnectError,
    },
}

/// Connects, with as many attempts as `options` allow.
///
/// # Errors
/// [`ConnectError`]; wrong addresses and refused credentials fail at the first attempt.
pub async fn connect(options: &Options) -> Result<Connection, ConnectError> {
    let servers = addresses(&options.urls)?;
    let urls = options.urls.join(", ");
    let turns = Arc::new(Turns::new(options.jitter_seed));
    let mut attempt = 1;
    let client = loop {
        // Options can't be cloned with their callbacks, so each attempt builds its own.
        let error = match client_options(options, &turns).await?.connect(&servers[..]).await {
            Ok(client) => break client,
            Err(error) => error,
        };
        match error.kind() {
            ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
                return Err(ConnectError::Refused { urls, source: error });
            }
            ConnectErrorKind::Tls => return Err(ConnectError::Tls { urls, source: error }),
            _ if attempt >= options.attempts => {
                return Err(ConnectError::Unreachable { urls, attempts: attempt, source: error });
            }
            _ => {}
        }
        tracing::warn!(nats.servers = %urls, attempt, error = %error, "cannot connect to NATS yet");
        tokio::time::sleep(delay(options.jitter_seed, attempt as usize)).await;
        attempt += 1;
    };
    let jetstream = context(client.clone(), &options.region, options.request_limit);
    let acks = Arc::new(Acks::start(&client, options.request_limit).await.map_err(ConnectError::Closed)?);
    let leaving = (servers.len() > 1)
        .then(|| leave::start(jetstream.clone(), turns, servers.len(), options.request_limit))
        .map(Arc::new);
    Ok(Connection {
        client,
        jetstream,
        region: options.region.clone(),
        others: options.others.clone().into(),
        is_hub: options.is_hub,
        acks,
        _leaving: leaving,
    })
}

fn context(client: Client, domain: &Region, limit: Duration) -> jetstream::Context {
    ContextBuilder::new().domain(domain.as_str()).timeout(limit).build(client)
}

async fn client_options(options: &Options, turns: &Arc<Turns>) -> Result<ConnectOptions, ConnectError> {
    let seed = options.jitter_seed;
    let turns = Arc::clone(turns);
    let mut client = ConnectOptions::new()
        .name(&options.name)
        .connection_timeout(options.connect_limit)
        .request_timeout(Some(options.request_limit))
        .ping_interval(PING_INTERVAL)
        .max_reconnects(None)
        .reconnect_delay_callback(move |attempts| delay(seed, attempts))
        .reconnect_to_server_callback(move |servers: Vec<_>, _| {
            let chosen = turns.choose(&servers);
            async move { chosen }
        })
        .event_callback(|event| async move { log(&event) });
    if options.background {
        client = client.retry_on_initial_connect();
    }
    if let Some(prefix) = &options.inbox_prefix {
        client = client.custom_inbox_prefix(prefix);
    }
    if let Some(path) = &options.tls_ca {
        client = client.add_root_certificates(path.clone()).require_tls(true);
    }
    Ok(match &options.auth {
        Auth::None => client,
        Auth::Password { user, password } => client.user_and_password(user.clone(), password.clone()),
        Auth::Token(token) => client.token(token.clone()),
        Auth::CredentialsFile(path) => credentials(client, path).await?,
        Auth::Credentials(text) => client.credentials(text).map_err(ConnectError::Credentials)?,
    })
}

async fn credentials(client: ConnectOptions, path: &Path) -> Result<ConnectOptions, ConnectError> {
    let failed = |source| ConnectError::CredentialsFile { path: path.to_owned(), source };
    client.credentials_file(path).await.map_err(failed)
}

fn addresses(urls: &[String]) -> Result<Vec<async_nats::ServerAddr>, ConnectError> {
    if urls.is_empty() {
        return Err(ConnectError::NoUrl);
    }
    urls.iter()
        .map(|url| {
            if url.contains('@') {
                return Err(ConnectError::CredentialsInUrl);
            }
            url.parse().map_err(|_| ConnectError::Url { url: url.clone() })
        })
        .collect()
}

/// The delay before the attempt that follows `attempts` failed ones: it doubles up to [`MAX_DELAY`], and a half of it
/// depends on the seed. Pure.
fn delay(seed: u64, attempts: usize) -> Duration {
    if attempts == 0 {
        return Duration::ZERO;
    }
    let doublings = u32::try_from(attempts - 1).unwrap_or(u32::MAX).min(16);
    let whole = FIRST_DELAY.saturating_mul(1 << doublings).min(MAX_DELAY);
    let share = (mixed(seed.wrapping_add(attempts as u64)) >> 40) as f64 / f64::from(1_u32 << 24);
    whole.mul_f64(0.5 + share / 2.0)
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): every bit of the result depends on every bit given.
fn mixed(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

fn log(event: &Event) {
    match event {
        Event::Connected => tracing::info!("connected to NATS"),
        Event::Disconnected => tracing::warn!("disconnected from NATS, reconnecting"),
        Event::LameDuckMode => tracing::info!("the NATS server is about to shut down, changing to another"),
        Event::Draining => tracing::info!("the NATS connection drains"),
        Event::Closed => tracing::info!("the NATS connection is closed"),
        Event::SlowConsumer(subscription) => {
            tracing::warn!(subscription, "messages of a subscription were dropped: its reader is too slow");
        }
        // Permission violations arrive here and nowhere else; the request itself only times out.
        Event::ServerError(ServerError::Other(error)) => {
            tracing::error!(error, "the NATS server reports an error")
        }
        Event::ServerError(error) => tracing::error!(%error, "the NATS server reports an error"),
        Event::ClientError(error) => tracing::warn!(%error, "the NATS client reports an error"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_a_limit_and_differ_between_processes() {
        for seed in 0..200 {
            assert_eq!(delay(seed, 0), Duration::ZERO);
            for attempts in 1..40 {
                let whole = FIRST_DELAY.saturating_mul(1 << (attempts - 1).min(16)).min(MAX_DELAY);
                let delay = delay(seed, attempts);
                assert!(delay >= whole / 2 && delay <= whole, "{delay:?} for attempt {attempts}");
            }
        }
        let different: std::collections::HashSet<_> = (0..100).map(|seed| delay(seed, 8)).collect();
        assert!(different.len() > 90);
    }

    #[test]
    fn addresses_are_checked() {
        let check = |url: &str| addresses(&[url.to_owned()]).map(|_| ());
        assert!(check("nats://127.0.0.1:4222").is_ok());
        assert!(matches!(check("nats://user:secret@127.0.0.1:4222"), Err(ConnectError::CredentialsInUrl)));
        assert!(matches!(check("http://127.0.0.1"), Err(ConnectError::Url { .. })));
        assert!(matches!(addresses(&[]), Err(ConnectError::NoUrl)));
    }

    #[test]
    fn settings_say_one_way_to_sign_in() {
        let auth = |text: &str| {
            let settings = Settings::parse(Some(text), std::collections::HashMap::new()).unwrap();
            Options::from_settings(&settings, "test").map(|options| options.auth)
        };
        assert_eq!(auth("").unwrap(), Auth::None);
        let password = Auth::Password { user: "a".to_owned(), password: "b".to_owned() };
        assert_eq!(auth("nats.user = \"a\"\nnats.password = \"b\"").unwrap(), password);
        assert_eq!(auth("nats.credentials = \"c\"").unwrap(), Auth::Credentials("c".to_owned()));
        for wrong in
            ["nats.user = \"a\"", "nats.password = \"b\"", "nats.user = \"a\"\nnats.credentials = \"c\""]
        {
            assert!(matches!(auth(wrong), Err(SettingsError::Invalid(_))), "{wrong}");
        }
    }

    #[test]
    fn secrets_do_not_show() {
        let secrets = [
            Auth::Token("sesame".to_owned()),
            Auth::Credentials("sesame".to_owned()),
            Auth::Password { user: "u".to_owned(), password: "sesame".to_owned() },
        ];
        for auth in secrets {
            assert!(!format!("{auth:?}").contains("sesame"));
        }
    }
}
