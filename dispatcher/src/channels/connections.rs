//! Several HTTP/2 connections to one provider.
//!
//! A client of reqwest has one connection for all that it sends to a server over HTTP/2, and the server says how many
//! requests that carries at once. So there is a fixed number of clients, and the next one is used while those before it
//! are busy. Over HTTP/1.1 each of them has a pool, and nothing is lost.

use std::sync::atomic::{AtomicUsize, Ordering};

/// So many requests go to one connection before another is used: as many as a server should allow at least (RFC 9113
/// §6.5.2).
const BUSY: usize = 100;

/// The connections to one provider. None is opened before it is needed.
#[derive(Debug)]
pub(crate) struct Connections(Vec<Connection>);

#[derive(Debug)]
struct Connection {
    http: reqwest::Client,
    /// How many requests are under way.
    busy: AtomicUsize,
}

/// A place on a connection, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place<'a>(&'a Connection);

impl Place<'_> {
    pub(crate) const fn http(&self) -> &reqwest::Client {
        &self.0.http
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connections {
    /// A connection for each client, of which there is at least one.
    pub(crate) fn new(clients: Vec<reqwest::Client>) -> Self {
        let connection = |http| Connection { http, busy: AtomicUsize::new(0) };
        Connections(clients.into_iter().map(connection).collect())
    }

    /// A place for one request: on the first connection that is not busy, or on the least busy one.
    pub(crate) fn place(&self) -> Place<'_> {
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
