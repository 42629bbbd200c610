//! Writes categories and recipients straight into the region's state, as the gateway would write them: filling a region
//! through the API would take longer than measuring it.

use std::collections::VecDeque;
use std::ops::Range;

use peal_common::category::{CATEGORY_FACET, Category, Class};
use peal_common::channel::{Channel, ChannelChoice};
use peal_common::id::AppId;
use peal_common::recipient::{Contact, RecipientBody, write_body};
use peal_common::state::{Kind, Record, RecordKey};
use peal_nats::publish::{Outgoing, Pending};
use rand::rngs::StdRng;

use super::deployment::{APP, Deployment};
use super::role::load::Recipients;

/// The category of everything that is sent.
pub const CATEGORY: &str = "orders";
/// Writes that may be unacknowledged at once.
const WINDOW: usize = 1_000;

/// Writes a category whose notifications go over one channel.
///
/// # Errors
/// When JetStream does not take it.
pub async fn category(deployment: &Deployment, id: &str, channel: ChannelChoice) -> anyhow::Result<()> {
    let app: AppId = APP.parse()?;
    let category = Category {
        class: Class::Transactional,
        mandatory: false,
        channels: vec![channel],
        priority: None,
        fallback: None,
    };
    let mut record = Record::default();
    record.set(CATEGORY_FACET, serde_json::to_value(category)?, &deployment.hybrid.stamp());
    let key = RecordKey::new(Kind::Category, &app, id);
    deployment.connection.publish(outgoing(deployment, &key, &record)?).await?;
    Ok(())
}

/// Writes some of the recipients, each with a webhook at `hook` and an e-mail address.
///
/// # Errors
/// When JetStream does not take them.
pub async fn recipients(
    deployment: &Deployment,
    who: &Recipients,
    numbers: Range<u64>,
    hook: &str,
) -> anyhow::Result<()> {
    let contacts = |id: &str| {
        vec![
            Contact::at(Channel::Webhook, hook.to_owned()),
            Contact::at(Channel::Email, format!("{id}@example.com")),
        ]
    };
    reached(deployment, who, numbers, contacts).await
}

/// Writes some of the recipients, each with a device of Apple's and one that FCM reaches.
///
/// # Errors
/// When JetStream does not take them.
pub async fn devices(deployment: &Deployment, who: &Recipients, numbers: Range<u64>) -> anyhow::Result<()> {
    let contacts = |id: &str| {
        let device = |channel, token| Contact {
            token: Some(token),
            address: None,
            ..Contact::at(channel, String::new())
        };
        // As long as tokens are today: 32 bytes in hexadecimal, and some 160 characters.
        let digits: String = id.bytes().map(|byte| format!("{byte:02x}")).collect();
        vec![
            device(Channel::Apns, format!("{digits:0>64}")),
            device(Channel::Fcm, format!("{id:a>22}:{}", "APA91b".repeat(23))),
        ]
    };
    reached(deployment, who, numbers, contacts).await
}

async fn reached(
    deployment: &Deployment,
    who: &Recipients,
    numbers: Range<u64>,
    contacts: impl Fn(&str) -> Vec<Contact>,
) -> anyhow::Result<()> {
    let app: AppId = APP.parse()?;
    let mut rng: StdRng = rand::make_rng();
    let mut waiting: VecDeque<Pending> = VecDeque::with_capacity(WINDOW);
    for number in numbers {
        let id = who.id(number);
        let body = RecipientBody {
            locale: Some("en-GB".to_owned()),
            time_zone: Some("Europe/London".to_owned()),
            attributes: serde_json::Map::from_iter([("plan".to_owned(), "gold".into())]),
            contacts: contacts(&id),
            groups: Vec::new(),
            pinned_to: None,
        };
        let key = RecordKey::new(Kind::Recipient, &app, &id);
        let mut record = Record::default();
        let stamp = deployment.hybrid.stamp();
        write_body(&mut record, &key, &app, &body, &stamp, &deployment.sealer, &mut rng)?;
        if waiting.len() == WINDOW
            && let Some(oldest) = waiting.pop_front()
        {
            oldest.acknowledged().await?;
        }
        waiting.push_back(deployment.connection.send(outgoing(deployment, &key, &record)?).await?);
    }
    for pending in waiting {
        pending.acknowledged().await?;
    }
    Ok(())
}

fn outgoing(deployment: &Deployment, key: &RecordKey, record: &Record) -> anyhow::Result<Outgoing> {
    Ok(Outgoing::new(deployment.subjects.state(key.as_str()), serde_json::to_vec(record)?))
}
