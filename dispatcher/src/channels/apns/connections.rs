//! The HTTP/2 connections to APNs.
//!
//! A client of reqwest has one connection for all that it sends to a server, and the server says how many requests that
//! carries at once. Apple recommends several connections to whoever sends much and wants connections kept: so there is
//! a fixed number, and the next one is used while those before it are busy.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::channels::{ConfigError, http as shared};

use super::Options;

/// The most connections of one dispatcher.
const CONNECTIONS: usize = 4;
/// So many requests go to one connection before another is used: as many as a server should allow at least (RFC 9113
/// §6.5.2), and as hyper begins before it knows how many it does.
const BUSY: usize = 100;
/// How long looking up a name, connecting and the TLS handshake may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// A connection that nothing was sent over for so long is not used again. Apple wants connections left open, and takes
/// frequent connecting for an attack.
const IDLE: Duration = Duration::from_secs(60 * 60);

/// The connections of one key to one server.
#[derive(Debug)]
pub(super) struct Connections(Vec<Connection>);

#[derive(Debug)]
struct Connection {
    http: reqwest::Client,
    /// How many requests are under way.
    busy: AtomicUsize,
}

/// A place on a connection, until it is dropped.
#[derive(Debug)]
pub(super) struct Place<'a>(&'a Connection);

impl Place<'_> {
    pub(super) const fn http(&self) -> &reqwest::Client {
        &self.0.http
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connections {
    /// Sets them up; none is opened before it is needed.
    pub(super) fn new(options: &Options) -> Result<Self, ConfigError> {
        let tls = shared::http2_tls_config(options.authorities.clone())?;
        let connection = || {
            let http = shared::http2_client_builder(tls.clone())
                .connect_timeout(options.timeout.min(CONNECT_LIMIT))
                .pool_idle_timeout(IDLE)
                // One that broke while nothing was sent is noticed before the next push is.
                .http2_keep_alive_while_idle(true)
                .build()
                .map_err(ConfigError::Http)?;
            Ok(Connection { http, busy: AtomicUsize::new(0) })
        };
        Ok(Connections((0..CONNECTIONS).map(|_| connection()).collect::<Result<_, ConfigError>>()?))
    }

    /// A place for one request: on the first connection that is not busy, or on the least busy one.
    pub(super) fn place(&self) -> Place<'_> {
        let load = self.0.iter().map(|connection| connection.busy.load(Ordering::Relaxed));
        let connection = &self.0[choose(load)];
        connection.busy.fetch_add(1, Ordering::Relaxed);
        Place(connection)
    }
}

/// Which connection to use; 0 where there is none.
fn choose(load: impl Iterator<Item = usize>) -> usize {
    let mut least = (usize::MAX, 0);
    for (index, busy) in load.enumerate() {
        if busy < BUSY {
            return index;
        }
        least = least.min((busy, index));
    }
    least.1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_connection_is_used_while_those_before_it_are_busy() {
        let cases: [(&[usize], usize); 6] = [
            (&[0, 0, 0], 0),
            (&[99, 0, 0], 0),
            (&[100, 0, 0], 1),
            (&[100, 100, 99], 2),
            (&[300, 200, 201], 1),
            (&[250, 99, 0], 1),
        ];
        for (load, expected) in cases {
            assert_eq!(choose(load.iter().copied()), expected, "{load:?}");
        }
    }
}
