//! A link between two places that can be cut and healed: a TCP relay on this machine, for tests and drills.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
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
    /// Nobody listens.
    Refusing,
}

/// How a link stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Standing {
    state: State,
    /// How often its connections were ended. One that knows of fewer is over, also when the link was healed at once.
    ends: u64,
    /// How often its connections were lost without a word. One that knows of fewer carries nothing any more.
    losses: u64,
}

/// Connections that wait to be taken.
const BACKLOG: u32 = 1024;

/// Relays connections from a port of its own to another one, while it is not cut. Dropping it ends all of them.
#[derive(Debug)]
pub struct Link {
    port: u16,
    standing: watch::Sender<Standing>,
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
        let (standing, watched) = watch::channel(Standing { state: State::Whole, ends: 0, losses: 0 });
        let accepting =
            tokio::spawn(accept(listener, SocketAddr::from((Ipv4Addr::LOCALHOST, target)), watched));
        Ok(Link { port, standing, accepting: accepting.abort_handle() })
    }

    /// The port to connect to.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Cuts the link: connections end, with what was kept back of them, and new ones are taken and closed at once.
    pub fn cut(&self) {
        self.end(State::Cut);
    }

    /// Takes the far side away, as when its process is gone: connections end, and new ones are refused.
    pub fn refuse(&self) {
        self.end(State::Refusing);
    }

    /// Loses from now on whatever the far side says, acknowledgements among it; what is said to it still arrives.
    pub fn deafen(&self) {
        self.turn(State::Deaf);
    }

    /// Keeps back from now on whatever either side says, as a network does that lost its way: connections stay, new ones
    /// are taken, and nobody is answered. What was kept back comes through when the link is healed.
    pub fn silence(&self) {
        self.turn(State::Silent);
    }

    /// Loses all connections without a word, as behind a firewall that forgot them: nothing comes through them ever again,
    /// and neither side is told. New ones are as in [`silence`](Self::silence), until the link is healed.
    pub fn lose(&self) {
        self.standing.send_modify(|standing| {
            *standing = Standing { state: State::Silent, losses: standing.losses + 1, ..*standing };
        });
    }

    /// Lets connections through again.
    pub fn heal(&self) {
        self.turn(State::Whole);
    }

    fn turn(&self, state: State) {
        self.standing.send_modify(|standing| standing.state = state);
    }

    fn end(&self, state: State) {
        self.standing.send_modify(|standing| {
            *standing = Standing { state, ends: standing.ends + 1, ..*standing };
        });
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.cut();
        self.accepting.abort();
    }
}

async fn accept(
    mut listener: TcpListener,
    target: SocketAddr,
    mut standing: watch::Receiver<Standing>,
) -> io::Result<()> {
    let address = listener.local_addr()?;
    loop {
        let now = *standing.borrow_and_update();
        if now.state == State::Refusing {
            // Whoever has bound a port and does not listen refuses connections, and nobody else gets the port meanwhile.
            drop(listener);
            let socket = TcpSocket::new_v4()?;
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            if standing.wait_for(|standing| standing.state != State::Refusing).await.is_err() {
                return Ok(());
            }
            listener = socket.listen(BACKLOG)?;
            continue;
        }
        // Both are cancel-safe.
        tokio::select! {
            accepted = listener.accept() => {
                let (near, _) = accepted?;
                let now = *standing.borrow();
                if !matches!(now.state, State::Cut | State::Refusing) {
                    tokio::spawn(relay(near, target, standing.clone(), now));
                }
            }
            changed = standing.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
            }
        }
    }
}

async fn relay(
    mut near: TcpStream,
    target: SocketAddr,
    mut standing: watch::Receiver<Standing>,
    began: Standing,
) {
    let passing = Passing { standing: standing.clone(), began };
    let relayed = async {
        if !passing.until_it_speaks().await {
            return Ok(());
        }
        let mut far = TcpStream::connect(target).await?;
        far.set_nodelay(true)?;
        near.set_nodelay(true)?;
        let ((mut from_near, mut to_near), (mut from_far, mut to_far)) = (near.split(), far.split());
        tokio::select! {
            said = passing.carry(&mut from_near, &mut to_far, None) => said,
            heard = passing.carry(&mut from_far, &mut to_near, Some(State::Deaf)) => heard,
        }
    };
    tokio::select! {
        // Either side is gone, which the other one sees when this ends.
        _ = relayed => {}
        _ = standing.wait_for(|standing| standing.ends != began.ends) => {}
    }
}

/// What a connection over the link may carry.
struct Passing {
    standing: watch::Receiver<Standing>,
    /// How the link stood when it was made.
    began: Standing,
}

impl Passing {
    /// Carries what one side says to the other one, except while the link is as in `loses`.
    async fn carry(
        &self,
        from: &mut ReadHalf<'_>,
        to: &mut WriteHalf<'_>,
        loses: Option<State>,
    ) -> io::Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let count = from.read(&mut buffer).await?;
            if !self.until_it_speaks().await || count == 0 {
                return Ok(());
            }
            if Some(self.standing.borrow().state) != loses {
                to.write_all(&buffer[..count]).await?;
            }
        }
    }

    /// Waits while the link is silent, for ever where this connection was lost, and says whether the connection is still one of it.
    async fn until_it_speaks(&self) -> bool {
        let mut standing = self.standing.clone();
        let Standing { ends, losses, .. } = self.began;
        let speaks = |now: &Standing| now.state != State::Silent && now.losses == losses;
        let spoke = standing.wait_for(|now| speaks(now) || now.ends != ends);
        // An error means that the link is gone.
        spoke.await.is_ok_and(|now| now.ends == ends)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    /// Nothing comes in this time.
    const QUIET: Duration = Duration::from_millis(200);
    const LIMIT: Duration = Duration::from_secs(10);

    async fn says(from: &mut TcpStream, to: &mut TcpStream) -> io::Result<bool> {
        from.write_all(b"x").await?;
        Ok(timeout(QUIET, to.read_u8()).await.is_ok_and(|read| read.is_ok()))
    }

    async fn connect(link: &Link, listener: &TcpListener) -> io::Result<(TcpStream, TcpStream)> {
        let near = TcpStream::connect((Ipv4Addr::LOCALHOST, link.port())).await?;
        let (far, _) = timeout(LIMIT, listener.accept()).await??;
        Ok((near, far))
    }

    #[tokio::test]
    async fn what_was_lost_stays_lost_and_nobody_is_told() -> io::Result<()> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let link = Link::to(listener.local_addr()?.port()).await?;
        let (mut near, mut far) = connect(&link, &listener).await?;
        assert!(says(&mut near, &mut far).await?);
        link.lose();
        assert!(!says(&mut near, &mut far).await?);
        link.heal();
        let (mut new_near, mut new_far) = connect(&link, &listener).await?;
        assert!(says(&mut new_near, &mut new_far).await? && says(&mut new_far, &mut new_near).await?);
        assert!(!says(&mut near, &mut far).await? && !says(&mut far, &mut near).await?);
        // The other side is not told either when one gives up.
        drop(near);
        assert!(timeout(QUIET, far.read_u8()).await.is_err());
        link.cut();
        assert!(timeout(LIMIT, far.read_u8()).await?.is_err());
        Ok(())
    }

    #[tokio::test]
    async fn what_was_kept_back_comes_through_later() -> io::Result<()> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let link = Link::to(listener.local_addr()?.port()).await?;
        let (mut near, mut far) = connect(&link, &listener).await?;
        link.silence();
        assert!(!says(&mut near, &mut far).await?);
        link.heal();
        assert_eq!(timeout(LIMIT, far.read_u8()).await??, b'x');
        Ok(())
    }
}
