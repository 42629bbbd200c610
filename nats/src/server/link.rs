//! A link between two places that can be cut and healed: a TCP relay on this machine, for tests and drills.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// Relays connections from a port of its own to another one, while it is not cut. Dropping it ends all of them.
#[derive(Debug)]
pub struct Link {
    port: u16,
    whole: watch::Sender<bool>,
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
        let (whole, watched) = watch::channel(true);
        let accepting =
            tokio::spawn(accept(listener, SocketAddr::from((Ipv4Addr::LOCALHOST, target)), watched));
        Ok(Link { port, whole, accepting: accepting.abort_handle() })
    }

    /// The port to connect to.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Cuts the link: connections end, and new ones are taken and closed at once.
    pub fn cut(&self) {
        self.whole.send_replace(false);
    }

    /// Lets connections through again.
    pub fn heal(&self) {
        self.whole.send_replace(true);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.whole.send_replace(false);
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, whole: watch::Receiver<bool>) {
    while let Ok((near, _)) = listener.accept().await {
        if *whole.borrow() {
            tokio::spawn(relay(near, target, whole.clone()));
        }
    }
}

async fn relay(mut near: TcpStream, target: SocketAddr, mut whole: watch::Receiver<bool>) {
    let relayed = async {
        let mut far = TcpStream::connect(target).await?;
        far.set_nodelay(true)?;
        near.set_nodelay(true)?;
        tokio::io::copy_bidirectional(&mut near, &mut far).await
    };
    tokio::select! {
        // Either side is gone, which the other one sees when this ends.
        _ = relayed => {}
        _ = whole.wait_for(|whole| !whole) => {}
    }
}
