//! A link between two places that can be cut and healed: a TCP relay on this machine, for tests and drills.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// What a link lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Whole,
    /// What the far side says is lost.
    Deaf,
    Cut,
}

/// Relays connections from a port of its own to another one, while it is not cut. Dropping it ends all of them.
#[derive(Debug)]
pub struct Link {
    port: u16,
    state: watch::Sender<State>,
    accepting: AbortHandle,
}

impl Link {
    /// Opens a link to a port of 127.0.0.1.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn to(target: u16) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let (state, watched) = watch::channel(State::Whole);
        let accepting =
            tokio::spawn(accept(listener, SocketAddr::from((Ipv4Addr::LOCALHOST, target)), watched));
        Ok(Link { port, state, accepting: accepting.abort_handle() })
    }

    /// The port to connect to.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Cuts the link: connections end, and new ones are taken and closed at once.
    pub fn cut(&self) {
        self.state.send_replace(State::Cut);
    }

    /// Loses from now on whatever the far side says, acknowledgements among it; what is said to it still arrives.
    pub fn deafen(&self) {
        self.state.send_replace(State::Deaf);
    }

    /// Lets connections through again.
    pub fn heal(&self) {
        self.state.send_replace(State::Whole);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.state.send_replace(State::Cut);
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, state: watch::Receiver<State>) {
    while let Ok((near, _)) = listener.accept().await {
        if *state.borrow() != State::Cut {
            tokio::spawn(relay(near, target, state.clone()));
        }
    }
}

async fn relay(mut near: TcpStream, target: SocketAddr, mut state: watch::Receiver<State>) {
    let hearing = state.clone();
    let relayed = async {
        let mut far = TcpStream::connect(target).await?;
        far.set_nodelay(true)?;
        near.set_nodelay(true)?;
        let ((mut from_near, mut to_near), (mut from_far, mut to_far)) = (near.split(), far.split());
        tokio::select! {
            said = tokio::io::copy(&mut from_near, &mut to_far) => said.map(drop),
            heard = hear(&mut from_far, &mut to_near, &hearing) => heard,
        }
    };
    tokio::select! {
        // Either side is gone, which the other one sees when this ends.
        _ = relayed => {}
        _ = state.wait_for(|state| *state == State::Cut) => {}
    }
}

async fn hear(
    far: &mut ReadHalf<'_>,
    near: &mut WriteHalf<'_>,
    state: &watch::Receiver<State>,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = far.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        if *state.borrow() != State::Deaf {
            near.write_all(&buffer[..count]).await?;
        }
    }
}
