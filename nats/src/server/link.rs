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
    /// Nothing comes through, and nobody is told.
    Silent,
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

    /// Keeps back from now on whatever either side says, as a network does that lost its way: connections stay, new ones
    /// are taken, and nobody is answered. What was kept back comes through when the link is healed.
    pub fn silence(&self) {
        self.state.send_replace(State::Silent);
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
    let passing = state.clone();
    let relayed = async {
        until_it_speaks(&passing).await;
        let mut far = TcpStream::connect(target).await?;
        far.set_nodelay(true)?;
        near.set_nodelay(true)?;
        let ((mut from_near, mut to_near), (mut from_far, mut to_far)) = (near.split(), far.split());
        tokio::select! {
            said = carry(&mut from_near, &mut to_far, &passing, None) => said,
            heard = carry(&mut from_far, &mut to_near, &passing, Some(State::Deaf)) => heard,
        }
    };
    tokio::select! {
        // Either side is gone, which the other one sees when this ends.
        _ = relayed => {}
        _ = state.wait_for(|state| *state == State::Cut) => {}
    }
}

/// Carries what one side says to the other one, except while the link is as in `loses`.
async fn carry(
    from: &mut ReadHalf<'_>,
    to: &mut WriteHalf<'_>,
    state: &watch::Receiver<State>,
    loses: Option<State>,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = from.read(&mut buffer).await?;
        until_it_speaks(state).await;
        if count == 0 {
            return Ok(());
        }
        if Some(*state.borrow()) != loses {
            to.write_all(&buffer[..count]).await?;
        }
    }
}

async fn until_it_speaks(state: &watch::Receiver<State>) {
    // An error means that the link is gone, and this connection is about to end with it.
    let _ = state.clone().wait_for(|state| *state != State::Silent).await;
}
