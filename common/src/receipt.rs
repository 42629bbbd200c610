//! What a provider is handed so that its receipts find their delivery again.

use std::fmt;
use std::str::FromStr;

use crate::id::{AppId, DeliveryId, NotificationId, Region};

/// Names a delivery to a provider, as one word: `region.app.notification.delivery`. Nothing in it may contain a dot. It is
/// at most 324 characters long, and no personal data as long as ids are none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The region that delivers: what its provider reports belongs to its events.
    pub region: Region,
    /// The app.
    pub app: AppId,
    /// The notification.
    pub notification: NotificationId,
    /// The delivery.
    pub delivery: DeliveryId,
}

/// A text that is no reference. The message never repeats it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a reference of the form region.app.notification.delivery")]
pub struct ReferenceError;

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}.{}", self.region, self.app, self.notification, self.delivery)
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let mut parts = text.split('.');
        let mut part = || parts.next().ok_or(ReferenceError);
        let reference = Reference {
            region: part()?.parse().map_err(|_| ReferenceError)?,
            app: part()?.parse().map_err(|_| ReferenceError)?,
            notification: part()?.parse().map_err(|_| ReferenceError)?,
            delivery: part()?.parse().map_err(|_| ReferenceError)?,
        };
        if parts.next().is_some() { Err(ReferenceError) } else { Ok(reference) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::Channel;

    #[test]
    fn a_reference_comes_back_as_it_went() {
        let (app, notification) = ("shop".parse().unwrap(), "order-1042:shipped".parse().unwrap());
        let recipient = "u.42@example.com".parse().unwrap();
        let delivery = DeliveryId::derive(&app, &notification, &recipient, Channel::Sms, "c", 0);
        let reference = Reference { region: "eu".parse().unwrap(), app, notification, delivery };
        assert_eq!(reference.to_string().parse(), Ok(reference.clone()));
        let text = reference.to_string();
        for bad in ["", "eu.shop.n", "eu.shop.n.xyz", &format!("{text}.x"), &text.to_uppercase(), "a b.c.d.e"]
        {
            assert_eq!(bad.parse::<Reference>(), Err(ReferenceError), "{bad:?}");
        }
    }
}
