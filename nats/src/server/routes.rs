//! The network between the servers of a cluster, for tests: a link for each direction between two of them.

use std::io;

use super::{ClusterConfig, Link, PortError, free_port};

/// The links, by the server that they lead to and the one that they come from.
pub struct Routes {
    ports: Vec<u16>,
    links: Vec<Vec<Link>>,
}

impl Routes {
    /// The network of `count` servers, whole.
    ///
    /// # Errors
    /// When there is no free port.
    pub async fn new(count: usize) -> io::Result<Self> {
        let ports = (0..count).map(|_| free_port()).collect::<Result<Vec<_>, PortError>>();
        let ports = ports.map_err(io::Error::other)?;
        let mut links = Vec::new();
        for port in &ports {
            let mut to_it = Vec::new();
            for _ in &ports {
                to_it.push(Link::to(*port).await?);
            }
            links.push(to_it);
        }
        Ok(Routes { ports, links })
    }

    /// How the server `number` of the cluster `name` takes part, which is then called `node-<number>`.
    ///
    /// # Errors
    /// When there is no free port.
    pub fn of(&self, number: usize, name: &str) -> Result<ClusterConfig, PortError> {
        let others = self.links.iter().enumerate().filter(|(other, _)| *other != number);
        Ok(ClusterConfig {
            name: name.to_owned(),
            server_name: format!("node-{number}"),
            port: self.ports[number],
            routes: others.map(|(_, links)| links[number].port()).collect(),
            // Nobody may hear from a third of a way around the links: there nobody listens.
            advertise: Some(free_port()?),
        })
    }

    /// Takes the network from one server, which nobody tells.
    pub fn silence(&self, number: usize) {
        self.of_node(number).for_each(Link::silence);
    }

    /// Gives it back.
    pub fn heal(&self, number: usize) {
        self.of_node(number).for_each(Link::heal);
    }

    fn of_node(&self, number: usize) -> impl Iterator<Item = &Link> {
        self.links[number].iter().chain(self.links.iter().map(move |links| &links[number]))
    }
}
