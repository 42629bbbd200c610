//! Coming home: a region that was silent for long may have been taken over by another one.
//!
//! Which notifications others took over stands in the state, and the hub has to tell it before anything is delivered. A
//! region that is merely cut off, or whose processes were replaced, waits for nobody.

use std::time::Duration;

use peal_common::clock::Clock;
use peal_nats::Connection;
use peal_nats::follow::StateError;
use peal_nats::topology::{EVENTS, OTHERS_STATE};
use tokio::time::Instant;

/// How long the hub may take. After that the region goes on by itself, as one that is cut off does.
const LIMIT: Duration = Duration::from_secs(120);
/// The hub gives a sign of life every second.
const HEARD: Duration = Duration::from_secs(3);
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Waits until it is known what was taken over, if the region wrote no event for `silence`: nobody takes over a region
/// that was heard of since.
pub async fn wait(connection: &Connection, clock: &Clock, silence: Duration) {
    let deadline = Instant::now() + LIMIT;
    let mut look = tokio::time::interval(LOOK_INTERVAL);
    let silent_ms = loop {
        look.tick().await;
        match silence_ms(connection, clock).await {
            Ok(silent_ms) => break silent_ms,
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "JetStream does not answer yet")
            }
        }
        if Instant::now() >= deadline {
            return;
        }
    };
    if u128::from(silent_ms) < silence.as_millis() {
        return;
    }
    tracing::info!(
        seconds = silent_ms / 1000,
        "the region was silent: the hub is asked what others took over"
    );
    while !is_told(connection).await {
        if Instant::now() >= deadline {
            tracing::warn!("the hub does not answer: what others took over meanwhile may be delivered twice");
            return;
        }
        look.tick().await;
    }
}

/// How long ago the region wrote its last event; 0 when it never wrote one.
async fn silence_ms(connection: &Connection, clock: &Clock) -> Result<u64, StateError> {
    let state = connection.stream_state(EVENTS).await?;
    let last = match state.messages {
        0 => None,
        _ => connection.message_at(EVENTS, state.last).await?,
    };
    Ok(last.map_or(0, |last| u64::try_from(clock.now_ms().saturating_sub(last.at_ms)).unwrap_or(0)))
}

/// Whether everything that the hub has to tell stands in this region's stream.
async fn is_told(connection: &Connection) -> bool {
    let Ok(sources) = connection.sources(OTHERS_STATE).await else { return false };
    let is_level = |source: &peal_nats::inspect::SourceFacts| {
        source.lag == 0 && source.silent_for.is_some_and(|it| it < HEARD)
    };
    !sources.is_empty() && sources.iter().all(is_level)
}
