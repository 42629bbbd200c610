//! Identifiers: a newtype for each, parsed at the edge and trusted afterwards.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::channel::Channel;

/// The longest identifier that a user may choose, in bytes.
pub const MAX_ID_BYTES: usize = 128;

/// An identifier that breaks the rules. The message says the rules and never repeats the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not `[A-Za-z0-9_:-]{1,128}`.
    #[error("must be 1 to 128 characters of A-Z a-z 0-9 _ : -")]
    Plain,
    /// Not `[A-Za-z0-9_:.@+=~-]{1,128}`.
    #[error("must be 1 to 128 characters of A-Z a-z 0-9 _ : - . @ + = ~")]
    Recipient,
    /// Not `[a-z0-9-]{1,32}`.
    #[error("must be 1 to 32 characters of a-z 0-9 -")]
    Region,
    /// Not 32 hexadecimal digits.
    #[error("must be 32 hexadecimal digits")]
    Delivery,
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':' | b'-')
}

fn is_recipient(byte: u8) -> bool {
    is_plain(byte) || matches!(byte, b'.' | b'@' | b'+' | b'=' | b'~')
}

fn is_region(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'
}

/// Reads an identifier where it stands in the input: every message holds several.
struct IdVisitor<T>(PhantomData<T>);

impl<T: FromStr<Err = IdError>> Visitor<'_> for IdVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $allowed:ident, $max:expr, $error:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Box<str>);

        impl $name {
            /// The identifier as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                if text.is_empty() || text.len() > $max || !text.bytes().all($allowed) {
                    return Err($error);
                }
                Ok($name(text.into()))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(IdVisitor(PhantomData))
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0.into()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                <String as utoipa::PartialSchema>::schema()
            }
        }

        impl utoipa::ToSchema for $name {}
    };
}

id!(
    /// The application that owns an object: every key belongs to one app, and no app sees another's objects.
    AppId, is_plain, MAX_ID_BYTES, IdError::Plain
);
id!(
    /// A notification's identifier, unique within its app. It is also the idempotency key.
    NotificationId, is_plain, MAX_ID_BYTES, IdError::Plain
);
id!(
    /// A category of notifications, such as `orders`.
    CategoryId, is_plain, MAX_ID_BYTES, IdError::Plain
);
id!(
    /// A template's identifier.
    TemplateId, is_plain, MAX_ID_BYTES, IdError::Plain
);
id!(
    /// A group of recipients.
    GroupId, is_plain, MAX_ID_BYTES, IdError::Plain
);
id!(
    /// An escalation policy, or an on-call rota.
    PolicyId, is_plain, MAX_ID_BYTES, IdError::Plain
);
id!(
    /// A recipient's identifier, taken from the user's own tables. It should not be personal data.
    RecipientId, is_recipient, MAX_ID_BYTES, IdError::Recipient
);
id!(
    /// A region: its JetStream domain has this name and every subject carries it.
    Region, is_region, 32, IdError::Region
);
id!(
    /// The public half of an API key, `pk_…`.
    AppKey, is_plain, MAX_ID_BYTES, IdError::Plain
);

/// Names one delivery: one recipient on one channel for one notification. It is derived, so that planning the same
/// notification twice names the same deliveries.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DeliveryId(Box<str>);

impl DeliveryId {
    /// Derives the identifier: the first 16 bytes of a SHA-256 over the parts, in hexadecimal. `contact` tells two
    /// devices of a recipient apart and is empty for the inbox; `step` counts fallback and escalation steps.
    #[must_use]
    pub fn derive(
        app: &AppId,
        notification: &NotificationId,
        recipient: &RecipientId,
        channel: Channel,
        contact: &str,
        step: u32,
    ) -> Self {
        let mut hash = Sha256::new();
        for part in [
            app.as_str(),
            notification.as_str(),
            recipient.as_str(),
            channel.as_str(),
            contact,
            &step.to_string(),
        ] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        let digest = hash.finalize();
        let mut text = String::with_capacity(32);
        for byte in &digest[..16] {
            text.push(char::from(HEX[usize::from(byte >> 4)]));
            text.push(char::from(HEX[usize::from(byte & 0xf)]));
        }
        DeliveryId(text.into())
    }

    /// The identifier as text: 32 hexadecimal digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DeliveryId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if text.len() != 32 || !text.bytes().all(|byte| HEX.contains(&byte)) {
            return Err(IdError::Delivery);
        }
        Ok(DeliveryId(text.into()))
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_with_wildcards_dots_spaces_or_nul_are_refused() {
        let long = "x".repeat(10_000);
        for bad in ["", "a*", "a>", "a.b", "a b", "a\0", "é", long.as_str()] {
            assert_eq!(bad.parse::<NotificationId>(), Err(IdError::Plain), "{bad:?}");
        }
        assert!("order-1042:shipped_1".parse::<NotificationId>().is_ok());
    }

    #[test]
    fn recipient_ids_may_look_like_what_people_have_in_their_tables() {
        assert!("u.42+a@example.com=~".parse::<RecipientId>().is_ok());
        for bad in ["a*", "a>", "a b", "a/b"] {
            assert_eq!(bad.parse::<RecipientId>(), Err(IdError::Recipient));
        }
    }

    #[test]
    fn delivery_ids_depend_on_every_part_and_on_nothing_else() {
        let app: AppId = "shop".parse().unwrap();
        let id = |n: &str, r: &str, channel, contact, step| {
            DeliveryId::derive(&app, &n.parse().unwrap(), &r.parse().unwrap(), channel, contact, step)
        };
        let base = id("n", "r", Channel::Email, "c", 0);
        assert_eq!(base, id("n", "r", Channel::Email, "c", 0));
        assert_eq!(base.as_str().len(), 32);
        for other in [
            id("n2", "r", Channel::Email, "c", 0),
            id("n", "r2", Channel::Email, "c", 0),
            id("n", "r", Channel::Sms, "c", 0),
            id("n", "r", Channel::Email, "c2", 0),
            id("n", "r", Channel::Email, "c", 1),
        ] {
            assert_ne!(base, other);
        }
    }
}
