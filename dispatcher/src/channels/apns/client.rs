//! The call of APNs.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderValue;
use reqwest::Request;
use tokio::time::{Instant, timeout, timeout_at};
use url::Url;

use peal_common::clock::Clock;
use peal_common::outcome::Outcome;

use super::provider_token::ProviderToken;
use super::{Options, outcome, request};
use crate::channels::connections::Connections;
use crate::channels::http::{Authorities, NoAnswer};
use crate::channels::outcomes::permanent;
use crate::channels::probe::Probe;
use crate::channels::{ConfigError, Message, http as shared};

/// The most connections of one dispatcher to one server with one key: Apple recommends several to whoever sends much.
const CONNECTIONS: usize = 4;
/// How long looking up a name, connecting and the TLS handshake may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// A connection that nothing was sent over for so long is not used again. Apple wants connections left open, and takes
/// frequent connecting for an attack.
const IDLE: Duration = Duration::from_secs(60 * 60);
/// The longest answer that is read; a refusal has one short word and a number.
const MAX_BODY_BYTES: usize = 16 * 1024;
/// How much of a success's body is read (and dropped), and how long that may take, so that its stream ends by itself: a
/// server may take many streams that are broken off for an attack.
const MAX_DROPPED_BYTES: u64 = 16 * 1024;
const DRAIN_LIMIT: Duration = Duration::from_millis(500);

/// Sends pushes as one team, with one key, to one server.
///
/// A request that the server has not processed, by its own word (a stream that it refused, or that came after those
/// that its GOAWAY counts), is sent again by reqwest, twice at most. Whatever else gets no answer is left to the
/// delivery, which repeats it under the same ids.
pub struct Client {
    pool: Arc<Pool>,
    /// That of the key, at whatever server: Apple takes it amiss when one key's token changes often
    /// (`TooManyProviderTokenUpdates`).
    token: Arc<ProviderToken>,
    topic: Option<HeaderValue>,
    clock: Clock,
    timeout: Duration,
}

/// Which server is called, and how it is connected to.
#[derive(Debug, PartialEq)]
struct Server {
    /// Below this each device has its path.
    devices: Url,
    /// Trusted beside the usual authorities.
    authorities: Authorities,
    connect_limit: Duration,
}

/// The connections to one server, for all that is sent with one key.
#[derive(Debug)]
struct Pool {
    server: Server,
    connections: Connections,
}

impl Pool {
    fn new(server: Server) -> Result<Self, ConfigError> {
        let build = |builder: reqwest::ClientBuilder| {
            let builder = builder.connect_timeout(server.connect_limit).pool_idle_timeout(IDLE);
            // One that broke while nothing was sent is noticed before the next push is.
            builder.http2_keep_alive_while_idle(true).build().map_err(ConfigError::Http)
        };
        let builders = shared::http2_client_builders_trusting(server.authorities.clone(), CONNECTIONS)?;
        let clients = builders.into_iter().map(build).collect::<Result<_, _>>()?;
        Ok(Pool { server, connections: Connections::new(clients) })
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl Client {
    /// A client. `clock` is what the provider token is dated by.
    ///
    /// # Errors
    /// [`ConfigError`] when TLS can't be set up.
    pub fn new(options: Options, clock: Clock) -> Result<Self, ConfigError> {
        Client::beside(&[], options, clock)
    }

    /// The same, with the connections and the provider token of one of `others` that has the same key and server.
    ///
    /// # Errors
    /// [`ConfigError`] when TLS can't be set up.
    pub(in crate::channels) fn beside(
        others: &[&Self],
        options: Options,
        clock: Clock,
    ) -> Result<Self, ConfigError> {
        let Options { key, key_id, team_id, topic, devices, authorities, timeout } = options;
        let server = Server { devices, authorities, connect_limit: timeout.min(CONNECT_LIMIT) };
        let with_key: Vec<_> =
            others.iter().filter(|other| other.token.is_of(&key, &key_id, &team_id)).collect();
        let pool = match with_key.iter().find(|other| other.pool.server == server) {
            Some(other) => Arc::clone(&other.pool),
            None => Arc::new(Pool::new(server)?),
        };
        let token = match with_key.first() {
            Some(other) => Arc::clone(&other.token),
            None => Arc::new(ProviderToken::new(key, &key_id, team_id)),
        };
        Ok(Client { pool, token, topic, clock, timeout })
    }

    /// Sends one push.
    pub async fn send(&self, message: &Message<'_>) -> Outcome {
        let deadline = Instant::now() + self.timeout;
        let Some(word) = self.token.authorization(self.clock.now()) else {
            return permanent("invalid_request");
        };
        let first = match self.request(message, word.clone()) {
            Ok(request) => self.call(request, deadline).await,
            Err(refused) => return refused,
        };
        if let Outcome::Unavailable { reason, .. } = &first
            && reason == outcome::EXPIRED_PROVIDER_TOKEN
            && let Some(renewed) = self.token.renewed(&word, self.clock.now())
            && let Ok(request) = self.request(message, renewed)
        {
            return self.call(request, deadline).await;
        }
        match first {
            // A topic that the contact brought along says nothing about the others'.
            Outcome::Unavailable { reason, .. }
                if reason == outcome::TOPIC_DISALLOWED && message.contact.topic.is_some() =>
            {
                permanent(reason)
            }
            first => first,
        }
    }

    /// Pushes to a device that does not exist: Apple looks at token and topic first. Unknown without a topic of the
    /// account's own.
    pub async fn probe(&self) -> Probe {
        let authorization = self.token.authorization(self.clock.now());
        let (Some(topic), Some(authorization)) = (&self.topic, authorization) else {
            return Probe::Unknown;
        };
        let request = request::to_nobody(&self.pool.server.devices, topic, authorization);
        Probe::of_outcome(self.call(request, Instant::now() + self.timeout).await)
    }

    fn request(&self, message: &Message<'_>, authorization: HeaderValue) -> Result<Request, Outcome> {
        request::request(message, &self.pool.server.devices, self.topic.as_ref(), authorization)
    }

    async fn call(&self, request: Request, deadline: Instant) -> Outcome {
        let place = self.pool.connections.place();
        let response = match timeout_at(deadline, place.http().execute(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return NoAnswer::of(&error).repeatable(),
            Err(_) => return NoAnswer::TimedOut.repeatable(),
        };
        if let Some(sent) = outcome::of_head(response.status(), response.headers()) {
            let _ = timeout(DRAIN_LIMIT, shared::discard_capped(response, MAX_DROPPED_BYTES)).await;
            return sent;
        }
        let (status, headers) = (response.status(), response.headers().clone());
        let body = timeout_at(deadline, shared::read_capped(response, MAX_BODY_BYTES)).await.ok().flatten();
        outcome::of_answer(status, &headers, body.as_deref(), self.clock.now())
    }
}

#[cfg(test)]
mod tests {
    use p256::ecdsa::SigningKey;

    use super::*;

    fn options(key: u8, key_id: &str, devices: &str) -> Options {
        Options {
            key: SigningKey::from_slice(&[key; 32]).unwrap(),
            key_id: key_id.to_owned(),
            team_id: "DEF123GHIJ".to_owned(),
            topic: None,
            devices: devices.parse().unwrap(),
            authorities: Authorities::default(),
            timeout: Duration::from_secs(15),
        }
    }

    #[test]
    fn one_key_has_one_token_and_one_pool_for_each_server() {
        const PRODUCTION: &str = "https://api.push.apple.com/3/device";
        const SANDBOX: &str = "https://api.sandbox.push.apple.com/3/device";
        let first = Client::new(options(1, "ABC123DEFG", PRODUCTION), Clock::System).unwrap();
        let same = |options| {
            let client = Client::beside(&[&first], options, Clock::System).unwrap();
            (Arc::ptr_eq(&client.pool, &first.pool), Arc::ptr_eq(&client.token, &first.token))
        };
        let other_topic = Some(HeaderValue::from_static("com.example.app"));
        assert_eq!(
            same(Options { topic: other_topic, ..options(1, "ABC123DEFG", PRODUCTION) }),
            (true, true)
        );
        assert_eq!(same(options(1, "ABC123DEFG", SANDBOX)), (false, true));
        assert_eq!(same(options(2, "ABC123DEFG", PRODUCTION)), (false, false));
        assert_eq!(same(options(1, "ABC123DEFH", PRODUCTION)), (false, false));
    }
}
