//! Versions of nats-server.

use std::fmt;

/// The oldest nats-server that Peal works with: the first whose message schedules take time zones.
pub const OLDEST: Version = Version { major: 2, minor: 14 };

/// Major and minor number of a nats-server; patch releases make no difference here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The first number.
    pub major: u32,
    /// The second number.
    pub minor: u32,
}

impl Version {
    /// Reads `2.15.1`, `v2.15.1-RC.1` and the answer to `--version`, which is `nats-server: v2.15.1`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let numbers = text.trim().strip_prefix("nats-server: ").unwrap_or(text.trim());
        let mut parts = numbers.strip_prefix('v').unwrap_or(numbers).split('.');
        let major = parts.next()?.parse().ok()?;
        let minor = parts.next()?.parse().ok()?;
        Some(Version { major, minor })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_ordered() {
        for text in ["2.15.1", "v2.15.1-RC.1", "nats-server: v2.15.1\n"] {
            assert_eq!(Version::parse(text), Some(Version { major: 2, minor: 15 }), "{text}");
        }
        assert!(Version::parse("2.9.25").unwrap() < OLDEST);
        assert!(Version::parse("3.0.0").unwrap() > OLDEST);
        for text in ["", "nats", "v2", "2.x"] {
            assert_eq!(Version::parse(text), None, "{text}");
        }
    }
}
