//! The link with which a recipient stops a category on a channel, as e-mails carry it (RFC 2369 §3.2, RFC 8058).
//!
//! It needs no key and has no end, since mailboxes keep e-mails for years. Whoever has it can stop one category for one
//! recipient on one channel and nothing else; nobody can make one, or see from it whom it is for.

use crate::channel::Channel;
use crate::id::{AppId, CategoryId, RecipientId};
use crate::seal::{SealError, Sealer};

/// Keeps such a token from being taken for one of another kind.
const PLACE: &str = "unsubscribe 1";

/// What a link stops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsubscribe {
    /// The app.
    pub app: AppId,
    /// For whom.
    pub recipient: RecipientId,
    /// What.
    pub category: CategoryId,
    /// On which channel.
    pub channel: Channel,
}

impl Unsubscribe {
    /// The link below a gateway's public address, which does not end with a slash.
    ///
    /// # Errors
    /// As [`Unsubscribe::token`].
    pub fn link(&self, base: &str, sealer: &Sealer) -> Result<String, SealError> {
        Ok(format!("{base}/u/{}", self.token(sealer)?))
    }

    /// What stands in the link: letters, digits, `-` and `_`, at most 640 of them. The same is stopped by the same token.
    ///
    /// # Errors
    /// As [`Sealer::seal_link`].
    pub fn token(&self, sealer: &Sealer) -> Result<String, SealError> {
        // No id may contain a line break.
        let plain = format!("{}\n{}\n{}\n{}", self.app, self.recipient, self.category, self.channel);
        sealer.seal_link(&plain, PLACE)
    }

    /// Reads what [`Unsubscribe::token`] made.
    ///
    /// # Errors
    /// [`SealError::CannotOpen`] when it was made by somebody else, or changed.
    pub fn read(token: &str, sealer: &Sealer) -> Result<Self, SealError> {
        let plain = sealer.open_link(token, PLACE)?;
        let mut parts = plain.split('\n');
        let mut part = || parts.next().ok_or(SealError::CannotOpen);
        let found = Unsubscribe {
            app: part()?.parse().map_err(|_| SealError::CannotOpen)?,
            recipient: part()?.parse().map_err(|_| SealError::CannotOpen)?,
            category: part()?.parse().map_err(|_| SealError::CannotOpen)?,
            channel: part()?.parse().map_err(|_| SealError::CannotOpen)?,
        };
        if parts.next().is_some() { Err(SealError::CannotOpen) } else { Ok(found) }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    fn sealer(seed: u64) -> Sealer {
        Sealer::from_base64(&Sealer::generate_key(&mut StdRng::seed_from_u64(seed))).unwrap()
    }

    fn of(recipient: &str) -> Unsubscribe {
        Unsubscribe {
            app: "shop".parse().unwrap(),
            recipient: recipient.parse().unwrap(),
            category: "news".parse().unwrap(),
            channel: Channel::Email,
        }
    }

    #[test]
    fn a_token_comes_back_as_it_went_and_says_nothing_in_clear() {
        let sealer = sealer(1);
        let unsubscribe = of("kim@example.com");
        let token = unsubscribe.token(&sealer).unwrap();
        assert_eq!(Unsubscribe::read(&token, &sealer), Ok(unsubscribe.clone()));
        assert_eq!(unsubscribe.token(&sealer).unwrap(), token, "it is the same each time");
        assert_ne!(of("lee@example.com").token(&sealer).unwrap()[..16], token[..16]);
        assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)), "{token}");
        for part in ["kim", "example", "shop", "news", "a2lt"] {
            assert!(!token.contains(part), "{token}");
        }
        let link = unsubscribe.link("https://peal.example.com", &sealer).unwrap();
        assert_eq!(link, format!("https://peal.example.com/u/{token}"));
    }

    #[test]
    fn the_longest_ids_fit() {
        let long = Unsubscribe {
            app: "a".repeat(128).parse().unwrap(),
            recipient: "r".repeat(128).parse().unwrap(),
            category: "c".repeat(128).parse().unwrap(),
            channel: Channel::Alimtalk,
        };
        assert!(long.token(&sealer(1)).unwrap().len() <= 640);
    }

    #[test]
    fn a_token_that_was_changed_or_made_elsewhere_is_none() {
        let sealer = sealer(1);
        let token = of("u-42").token(&sealer).unwrap();
        for at in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(Unsubscribe::read(&changed, &sealer), Err(SealError::CannotOpen), "{at}");
        }
        let twice = format!("{token}{token}");
        let padded = format!("{token}=");
        for bad in ["", "A", "../..", "=", &token[1..], &token[..token.len() - 1], &twice, &padded] {
            assert_eq!(Unsubscribe::read(bad, &sealer), Err(SealError::CannotOpen), "{bad}");
        }
        let theirs = of("u-42").token(&self::sealer(2)).unwrap();
        assert_eq!(Unsubscribe::read(&theirs, &sealer), Err(SealError::CannotOpen));
        let of_another_kind = sealer.seal_link("shop\nu-42\nnews\nemail", "preferences 1").unwrap();
        assert_eq!(Unsubscribe::read(&of_another_kind, &sealer), Err(SealError::CannotOpen));
    }
}
