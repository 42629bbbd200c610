//! How a durable consumer stands: what a lane has to know of it before it pulls.

use async_nats::jetstream::response::Response;
use serde::Deserialize;

use crate::connect::Connection;
use crate::follow::StateError;

/// How a consumer stands. Times are by the clock of the servers, in milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConsumerStanding {
    /// When the consumer was made.
    pub since_ms: i64,
    /// When this was told.
    pub now_ms: i64,
    /// Whether somebody has paused it.
    pub is_paused: bool,
    /// How many messages it has not handed out.
    pub waiting: u64,
}

/// The same as JetStream tells it.
#[derive(Deserialize)]
struct Facts {
    created: jiff::Timestamp,
    ts: jiff::Timestamp,
    #[serde(default)]
    paused: bool,
    num_pending: u64,
}

impl Connection {
    /// Asks how a consumer stands.
    ///
    /// # Errors
    /// [`StateError`] when there is no such consumer or nobody answers.
    pub async fn consumer_standing(
        &self,
        stream: &str,
        consumer: &str,
    ) -> Result<ConsumerStanding, StateError> {
        let subject = format!("CONSUMER.INFO.{stream}.{consumer}");
        let asked: Result<Response<Facts>, _> = self.jetstream.request(subject, &serde_json::json!({})).await;
        match asked.map_err(|error| StateError::new(stream, error))? {
            Response::Ok(Facts { created, ts, paused, num_pending }) => Ok(ConsumerStanding {
                since_ms: created.as_millisecond(),
                now_ms: ts.as_millisecond(),
                is_paused: paused,
                waiting: num_pending,
            }),
            Response::Err { error } => Err(StateError::new(stream, error)),
        }
    }
}
