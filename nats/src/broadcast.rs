//! Telling all processes of a region, or of all regions that are linked, something at once. Nothing is kept: whoever does not listen at that moment misses
//! it, so this is for what helps when it arrives and harms nobody when it doesn't.

use async_nats::Subscriber;
use bytes::Bytes;
use futures_util::StreamExt as _;

use crate::connect::Connection;

/// Everybody who listens, this process included.
#[derive(Debug)]
pub struct Broadcast {
    connection: Connection,
    subject: String,
    heard: Subscriber,
}

/// The connection has been closed.
#[derive(Debug, thiserror::Error)]
#[error("the connection is closed")]
pub struct Closed;

impl Connection {
    /// Listens on `listen`, of which `subject` is a part, to tell on. While the connection is down it waits.
    ///
    /// # Errors
    /// [`Closed`]
    pub async fn broadcast(&self, subject: String, listen: String) -> Result<Broadcast, Closed> {
        let heard = self.client.subscribe(listen).await.map_err(|_| Closed)?;
        Ok(Broadcast { connection: self.clone(), subject, heard })
    }
}

impl Broadcast {
    /// Tells everybody; nobody while the connection is down.
    ///
    /// # Errors
    /// [`Closed`]
    pub async fn tell(&self, payload: Bytes) -> Result<(), Closed> {
        if !self.connection.is_connected() {
            return Ok(());
        }
        self.connection.client.publish(self.subject.clone(), payload).await.map_err(|_| Closed)
    }

    /// What somebody told.
    ///
    /// # Errors
    /// [`Closed`]
    pub async fn hear(&mut self) -> Result<Bytes, Closed> {
        self.heard.next().await.map(|message| message.payload).ok_or(Closed)
    }
}
