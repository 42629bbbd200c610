//! Recipients: who they are and where they are reached.

use std::ops::Bound;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::address;
use crate::channel::{Channel, ChannelSet};
use crate::envelope::ContactRef;
use crate::id::{AppId, GroupId, Region};
use crate::preferences::Preferences;
use crate::problem::FieldError;
use crate::seal::{DataKey, DataKeys, SealError, Sealer};
use crate::state::{Record, RecordKey};

/// The most contacts that one recipient may have.
pub const MAX_CONTACTS: usize = 50;
/// The most bytes of attributes, as JSON.
pub const MAX_ATTRIBUTES_BYTES: usize = 16 * 1024;
const MAX_GROUPS: usize = 100;

/// How the facets begin that hold a wrapped data key. Each region that makes one keeps it in a facet of its own,
/// `data_key.<region>`, so that no other region's takes its place when the records are merged: what was sealed with it
/// would be lost.
const DATA_KEY_FACETS: &str = "data_key";
/// The facet that holds the sealed profile.
pub const PROFILE_FACET: &str = "profile";
/// The facet that holds the sealed contacts and their blind indexes.
pub const CONTACTS_FACET: &str = "contacts";

/// A place where a recipient is reached on one channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Contact {
    /// The channel.
    pub channel: Channel,
    /// E-mail address, phone number, Telegram chat id or webhook URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Device token of `apns` and `fcm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The app's bundle id, for `apns`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// The browser's subscription, for `webpush`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscription: Option<Subscription>,
}

/// A browser's push subscription, as `PushSubscription.toJSON()` gives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Subscription {
    /// The push service's URL.
    pub endpoint: String,
    /// The subscription's keys.
    pub keys: SubscriptionKeys,
}

/// The keys of a push subscription (RFC 8291 §2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SubscriptionKeys {
    /// The browser's public key, base64url.
    pub p256dh: String,
    /// The authentication secret, base64url.
    pub auth: String,
}

impl Contact {
    /// A contact that has just an address.
    #[must_use]
    pub fn at(channel: Channel, address: String) -> Self {
        Contact { channel, address: Some(address), token: None, topic: None, subscription: None }
    }

    /// What identifies the contact on its channel: the address, token or endpoint.
    #[must_use]
    pub fn identity(&self) -> &str {
        self.address
            .as_deref()
            .or(self.token.as_deref())
            .or(self.subscription.as_ref().map(|subscription| subscription.endpoint.as_str()))
            .unwrap_or_default()
    }

    /// Checks the contact and brings its address into normal form.
    fn normalize(&mut self, field: &str, errors: &mut Vec<FieldError>) {
        let expected = match self.channel {
            Channel::Apns | Channel::Fcm => "token",
            Channel::Webpush => "subscription",
            Channel::Inbox => {
                errors.push(FieldError::new(
                    format!("{field}.channel"),
                    "no_contact_needed",
                    "every recipient has an inbox: leave the contact out",
                ));
                return;
            }
            _ => "address",
        };
        let given = [
            ("address", self.address.is_some()),
            ("token", self.token.is_some()),
            ("subscription", self.subscription.is_some()),
        ];
        for (name, present) in given {
            if present != (name == expected) {
                let (code, detail) = if present {
                    (
                        "unexpected_field",
                        format!("a contact on {} has no {name}; give its {expected}", self.channel),
                    )
                } else {
                    ("required", format!("a contact on {} needs its {expected}", self.channel))
                };
                errors.push(FieldError::new(format!("{field}.{name}"), code, detail));
            }
        }
        if self.topic.is_some() && self.channel != Channel::Apns {
            errors.push(FieldError::new(
                format!("{field}.topic"),
                "unexpected_field",
                "only apns has a topic",
            ));
        }
        for value in [&mut self.address, &mut self.token].into_iter().flatten() {
            match address::normalize(self.channel, value) {
                Ok(normal) => *value = normal,
                Err(error) => {
                    errors.push(FieldError::new(
                        format!("{field}.{expected}"),
                        error.code(),
                        error.to_string(),
                    ));
                }
            }
        }
        if let Some(subscription) = &self.subscription
            && address::webhook(&subscription.endpoint).is_err()
        {
            let error = address::AddressError::Url;
            errors.push(FieldError::new(
                format!("{field}.subscription.endpoint"),
                error.code(),
                error.to_string(),
            ));
        }
    }
}

/// What the API takes for a recipient.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RecipientBody {
    /// Language and region, BCP 47, such as `ko-KR`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locale: Option<String>,
    /// IANA time zone, such as `Asia/Seoul`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// Anything that templates and segments may use; at most 16 KiB.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schema(value_type = Object)]
    pub attributes: Map<String, Value>,
    /// Where the recipient is reached, in the order of preference; at most 50.
    #[serde(default)]
    pub contacts: Vec<Contact>,
    /// The groups that the recipient is a member of.
    #[serde(default)]
    pub groups: Vec<GroupId>,
    /// The only region that may know the recipient: its own. Nothing of the recipient, nor of what is sent to it, leaves
    /// that region. It can't be changed later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "eu")]
    pub pinned_to: Option<Region>,
}

impl RecipientBody {
    /// Checks every field and brings addresses into normal form.
    ///
    /// # Errors
    /// One entry for each thing that is wrong.
    pub fn normalize(mut self) -> Result<Self, Vec<FieldError>> {
        let mut errors = Vec::new();
        if let Some(locale) = &self.locale
            && !is_locale(locale)
        {
            errors.push(FieldError::new("locale", "invalid_locale", "write a BCP 47 tag such as ko-KR"));
        }
        if let Some(zone) = &self.time_zone
            && jiff::tz::TimeZone::get(zone).is_err()
        {
            errors.push(FieldError::new(
                "time_zone",
                "unknown_time_zone",
                "write an IANA name such as Asia/Seoul",
            ));
        }
        if serde_json::to_string(&self.attributes).is_ok_and(|text| text.len() > MAX_ATTRIBUTES_BYTES) {
            errors.push(FieldError::new("attributes", "too_large", "attributes hold at most 16 KiB of JSON"));
        }
        if self.contacts.len() > MAX_CONTACTS {
            errors.push(FieldError::new("contacts", "too_many", "a recipient has at most 50 contacts"));
        } else {
            for (index, contact) in self.contacts.iter_mut().enumerate() {
                contact.normalize(&format!("contacts[{index}]"), &mut errors);
            }
        }
        if self.groups.len() > MAX_GROUPS {
            errors.push(FieldError::new("groups", "too_many", "a recipient is in at most 100 groups"));
        }
        if errors.is_empty() { Ok(self) } else { Err(errors) }
    }
}

fn is_locale(text: &str) -> bool {
    let mut parts = text.split('-');
    let language = parts
        .next()
        .is_some_and(|p| (2..=3).contains(&p.len()) && p.bytes().all(|b| b.is_ascii_alphabetic()));
    language
        && text.len() <= 35
        && parts.all(|p| (2..=8).contains(&p.len()) && p.bytes().all(|b| b.is_ascii_alphanumeric()))
}

/// What stands in the contacts facet: the sealed contacts, and what may be seen without opening them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SealedContacts {
    sealed: String,
    /// `<channel>:<blind index>` of each contact, in order. The mirror keeps a look-up table of these.
    index: Vec<String>,
}

/// The sealed part of a profile.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Profile {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    locale: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    time_zone: Option<String>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    attributes: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    groups: Vec<GroupId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pinned_to: Option<Region>,
}

/// A recipient whose personal data has been opened.
#[derive(Debug)]
pub struct Recipient {
    /// Profile and contacts.
    pub body: RecipientBody,
    /// The blind index of each contact, in the order of `body.contacts`: the contact's name in streams.
    pub indexes: Vec<String>,
    /// What the recipient wants.
    pub preferences: Preferences,
    /// What seals what is kept for this recipient, such as inbox items.
    pub data_keys: DataKeys,
    /// When the contacts were registered, in milliseconds since the Unix epoch; 0 when there are none.
    pub registered_ms: u64,
}

impl Recipient {
    /// Opens a recipient's record. `None` when there is no such recipient, or it has been erased.
    ///
    /// # Errors
    /// [`SealError`] when the record can't be opened with the region's key, or is damaged.
    pub fn open(record: &Record, key: &RecordKey, sealer: &Sealer) -> Result<Option<Self>, SealError> {
        let Some(data_keys) = data_keys(record, key, sealer)? else { return Ok(None) };
        let profile: Profile = match record.get(PROFILE_FACET).and_then(Value::as_str) {
            Some(sealed) => open_json(&data_keys, sealed, key, PROFILE_FACET)?,
            None => Profile::default(),
        };
        let (contacts, indexes) = match record.get(CONTACTS_FACET) {
            Some(value) => {
                let facet = SealedContacts::deserialize(value).map_err(|_| SealError::CannotOpen)?;
                let contacts: Vec<Contact> = open_json(&data_keys, &facet.sealed, key, CONTACTS_FACET)?;
                let indexes = facet.index.iter().map(|entry| bare_index(entry).to_owned()).collect();
                (contacts, indexes)
            }
            None => (Vec::new(), Vec::new()),
        };
        let body = RecipientBody {
            locale: profile.locale,
            time_zone: profile.time_zone,
            attributes: profile.attributes,
            contacts,
            groups: profile.groups,
            pinned_to: profile.pinned_to,
        };
        let (preferences, registered_ms) = (Preferences::read(record), registered_ms(record));
        Ok(Some(Recipient { body, indexes, preferences, data_keys, registered_ms }))
    }

    /// The contact that a stream names by its blind index, unless it has been removed since.
    #[must_use]
    pub fn contact(&self, index: &str) -> Option<&Contact> {
        let position = self.indexes.iter().position(|own| own == index)?;
        self.body.contacts.get(position)
    }
}

/// What is known of a recipient without opening anything: enough to decide where a notification goes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outline {
    /// The contacts by channel and blind index, in order.
    pub contacts: Vec<ContactRef>,
    /// What the recipient wants.
    pub preferences: Preferences,
    /// As [`Recipient::registered_ms`].
    pub registered_ms: u64,
}

impl Outline {
    /// Reads a recipient's record. `None` when there is no such recipient, or it has been erased.
    #[must_use]
    pub fn read(record: &Record) -> Option<Self> {
        if !is_there(record) {
            return None;
        }
        let contact = |entry: &str| {
            let (channel, index) = entry.split_once(':')?;
            Some(ContactRef { channel: channel.parse().ok()?, index: index.to_owned() })
        };
        let contacts = index_entries(record).filter_map(contact).collect();
        Some(Outline {
            contacts,
            preferences: Preferences::read(record),
            registered_ms: registered_ms(record),
        })
    }
}

fn registered_ms(record: &Record) -> u64 {
    record.facets.get(CONTACTS_FACET).map_or(0, |facet| facet.stamp.ms)
}

/// Whether a record is one of a recipient who has not been erased.
#[must_use]
pub fn is_there(record: &Record) -> bool {
    wrapped_keys(record).next().is_some()
}

fn wrapped_keys(record: &Record) -> impl Iterator<Item = &str> {
    let from = (Bound::Included(DATA_KEY_FACETS), Bound::Unbounded);
    let facets = record.facets.range::<str, _>(from);
    let keys = facets.take_while(|(name, _)| name.starts_with(DATA_KEY_FACETS));
    keys.filter_map(|(_, facet)| facet.value.as_str())
}

/// The data keys of a record; `None` when there is none.
fn data_keys(record: &Record, key: &RecordKey, sealer: &Sealer) -> Result<Option<DataKeys>, SealError> {
    let mut keys = wrapped_keys(record).map(|wrapped| sealer.unwrap(wrapped, key.as_str()));
    let Some(first) = keys.next().transpose()? else { return Ok(None) };
    Ok(Some(DataKeys::new(first, keys.collect::<Result<_, _>>()?)))
}

fn bare_index(entry: &str) -> &str {
    entry.split_once(':').map_or(entry, |(_, index)| index)
}

fn open_json<T: serde::de::DeserializeOwned>(
    data_keys: &DataKeys,
    sealed: &str,
    key: &RecordKey,
    facet: &str,
) -> Result<T, SealError> {
    let plain = data_keys.open(sealed, &place(key, facet))?;
    serde_json::from_slice(&plain).map_err(|_| SealError::CannotOpen)
}

fn place(key: &RecordKey, facet: &str) -> String {
    format!("{key}#{facet}")
}

/// Writes a recipient's profile and contacts into its record, sealed with a data key that the record has, or with a
/// new one.
///
/// # Errors
/// [`SealError`] when the record's own data key can't be unwrapped, or the data is too large to seal.
pub fn write_body(
    record: &mut Record,
    key: &RecordKey,
    app: &AppId,
    body: &RecipientBody,
    stamp: &crate::clock::Stamp,
    sealer: &Sealer,
    rng: &mut impl rand::CryptoRng,
) -> Result<(), SealError> {
    let data_keys = match data_keys(record, key, sealer)? {
        Some(found) => found,
        None => {
            let data_key = DataKey::generate(rng);
            let wrapped = sealer.wrap(&data_key, key.as_str(), rng)?;
            record.set(&format!("{DATA_KEY_FACETS}.{}", stamp.region), Value::String(wrapped), stamp);
            DataKeys::new(data_key, Vec::new())
        }
    };
    let profile = Profile {
        locale: body.locale.clone(),
        time_zone: body.time_zone.clone(),
        attributes: body.attributes.clone(),
        groups: body.groups.clone(),
        pinned_to: body.pinned_to.clone(),
    };
    let mut seal = |value: Vec<u8>, facet: &str| data_keys.seal(&value, &place(key, facet), rng);
    let profile = seal(to_json(&profile)?, PROFILE_FACET)?;
    let sealed = seal(to_json(&body.contacts)?, CONTACTS_FACET)?;
    let index = body
        .contacts
        .iter()
        .map(|contact| {
            format!("{}:{}", contact.channel, sealer.blind_index(app, contact.channel, contact.identity()))
        })
        .collect();
    let contacts = serde_json::to_value(SealedContacts { sealed, index }).map_err(|_| SealError::TooLarge)?;
    record.set(PROFILE_FACET, Value::String(profile), stamp);
    record.set(CONTACTS_FACET, contacts, stamp);
    Ok(())
}

fn to_json(value: &impl Serialize) -> Result<Vec<u8>, SealError> {
    serde_json::to_vec(value).map_err(|_| SealError::TooLarge)
}

/// The blind-index entries (`<channel>:<index>`) of a record, for a look-up table. Empty for other kinds of record.
pub fn index_entries(record: &Record) -> impl Iterator<Item = &str> {
    record
        .get(CONTACTS_FACET)
        .and_then(|facet| facet.get("index"))
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}

/// The channels on which a recipient can be reached, told without opening anything. The inbox is always one of them; a
/// phone number serves both text messages and Alimtalk. `None` when the record is none of a recipient, or of one who
/// has been erased.
#[must_use]
pub fn reach(record: &Record) -> Option<ChannelSet> {
    if !is_there(record) {
        return None;
    }
    let mut reach = ChannelSet::default();
    reach.insert(Channel::Inbox);
    for entry in index_entries(record) {
        let Some(channel) = entry.split(':').next().and_then(|name| name.parse().ok()) else { continue };
        reach.insert(channel);
        if channel == Channel::Sms {
            reach.insert(Channel::Alimtalk);
        }
    }
    Some(reach)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;
    use serde_json::json;

    use super::*;
    use crate::clock::Stamp;
    use crate::state::Kind;

    fn stamp(ms: u64) -> Stamp {
        Stamp { ms, counter: 0, region: "eu".parse().unwrap() }
    }

    #[test]
    fn a_recipient_is_sealed_and_opens_as_it_was() {
        let mut rng = StdRng::seed_from_u64(1);
        let sealer = Sealer::from_base64(&Sealer::generate_key(&mut rng)).unwrap();
        let app: AppId = "shop".parse().unwrap();
        let key = RecordKey::new(Kind::Recipient, &app, "u-42");
        let body = RecipientBody {
            locale: Some("ko-KR".into()),
            time_zone: Some("Asia/Seoul".into()),
            contacts: vec![Contact::at(Channel::Email, "kim@example.com".into())],
            ..RecipientBody::default()
        }
        .normalize()
        .unwrap();
        let mut record = Record::default();
        write_body(&mut record, &key, &app, &body, &stamp(1), &sealer, &mut rng).unwrap();

        let text = serde_json::to_string(&record).unwrap();
        assert!(!text.contains("kim") && !text.contains("Seoul"));
        let opened = Recipient::open(&record, &key, &sealer).unwrap().unwrap();
        assert_eq!(opened.body, body);
        let index = sealer.blind_index(&app, Channel::Email, "kim@example.com");
        assert_eq!(index_entries(&record).collect::<Vec<_>>(), [format!("email:{index}")]);
        assert_eq!(opened.contact(&index), body.contacts.first());

        record.erase(&stamp(2));
        assert!(Recipient::open(&record, &key, &sealer).unwrap().is_none());
    }

    #[test]
    fn what_regions_made_at_the_same_time_opens_in_all_of_them() {
        let mut rng = StdRng::seed_from_u64(1);
        let sealer = Sealer::from_base64(&Sealer::generate_key(&mut rng)).unwrap();
        let app: AppId = "shop".parse().unwrap();
        let key = RecordKey::new(Kind::Recipient, &app, "u-42");
        let mut write = |record: &mut Record, locale: &str, region: &str, ms| {
            let body = RecipientBody { locale: Some(locale.to_owned()), ..RecipientBody::default() };
            let stamp = Stamp { ms, counter: 0, region: region.parse().unwrap() };
            write_body(record, &key, &app, &body, &stamp, &sealer, &mut rng).unwrap();
        };
        let opened = |record: &Record| Recipient::open(record, &key, &sealer).unwrap().unwrap();
        // us made its key last, eu wrote last.
        let (mut eu, mut us) = (Record::default(), Record::default());
        write(&mut eu, "de", "eu", 1);
        write(&mut us, "en", "us", 2);
        write(&mut eu, "fr", "eu", 3);
        let item = opened(&us).data_keys.seal(b"item", "inbox", &mut StdRng::seed_from_u64(2)).unwrap();

        for (one, other) in [(&eu, &us), (&us, &eu)] {
            let mut merged = one.clone();
            merged.merge(other.clone());
            let found = opened(&merged);
            assert_eq!(found.body.locale.as_deref(), Some("fr"));
            assert_eq!(found.data_keys.open(&item, "inbox").unwrap().as_slice(), b"item");
            assert!(found.data_keys.open(&item, "elsewhere").is_err());
            write(&mut merged, "ko", "us", 4);
            assert_eq!(opened(&merged).body.locale.as_deref(), Some("ko"));
            assert!(is_there(&merged) && reach(&merged).is_some() && Outline::read(&merged).is_some());
            merged.erase(&stamp(5));
            assert!(!is_there(&merged) && Recipient::open(&merged, &key, &sealer).unwrap().is_none());
        }
    }

    #[test]
    fn contacts_without_what_their_channel_needs_are_refused_by_field() {
        let body: RecipientBody = serde_json::from_value(json!({"contacts": [
            {"channel": "email"}, {"channel": "apns", "address": "x"}, {"channel": "inbox"},
            {"channel": "email", "address": "a\r\nb@x.de"}
        ]}))
        .unwrap();
        let errors = body.normalize().unwrap_err();
        let fields: Vec<_> = errors.iter().map(|e| (e.field.as_str(), e.code.as_str())).collect();
        assert!(fields.contains(&("contacts[0].address", "required")));
        assert!(fields.contains(&("contacts[1].address", "unexpected_field")));
        assert!(fields.contains(&("contacts[1].token", "required")));
        assert!(fields.contains(&("contacts[2].channel", "no_contact_needed")));
        assert!(fields.contains(&("contacts[3].address", "invalid_email")));
    }
}
