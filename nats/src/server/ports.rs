//! Ports that nobody uses.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::process;
use std::sync::atomic::{AtomicU16, Ordering};

/// The ports that are tried. They lie below the range from which operating systems take the ports of outgoing
/// connections (32768 on Linux, 49152 elsewhere): a server that is restarted on its port must not find there a client,
/// perhaps one that tried to reconnect to it and met itself.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// How many ports are tried before giving up.
const TRIES: u16 = 200;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// No free port was found.
#[derive(Debug, thiserror::Error)]
#[error("no free port on 127.0.0.1 among those tried from {FIRST} on")]
pub struct PortError(#[source] io::Error);

/// A port on 127.0.0.1 on which nobody listens right now. Different processes start at different places and no process
/// gives out the same one twice in a row, but somebody else may take it at any time: retry when that happens.
///
/// # Errors
/// [`PortError`] when a long run of ports is taken.
pub fn free_port() -> Result<u16, PortError> {
    let start = (process::id() % u32::from(COUNT)) as u16;
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..TRIES {
        // Steps of a prime that does not divide the count visit every port once, and keep processes with neighbouring
        // ids out of each other's way.
        let step = u32::from(NEXT.fetch_add(1, Ordering::Relaxed)) * 211;
        let port = FIRST + ((u32::from(start) + step) % u32::from(COUNT)) as u16;
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(_) => return Ok(port),
            Err(error) => last = error,
        }
    }
    Err(PortError(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_differ_and_can_be_bound() {
        let (first, second) = (free_port().unwrap(), free_port().unwrap());
        assert_ne!(first, second);
        assert!((FIRST..FIRST + COUNT).contains(&first));
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, first));
        assert!(taken.is_ok());
    }
}
