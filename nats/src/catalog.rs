//! What the gateway and the dispatcher look up in the mirror: categories, templates and recipients, typed and opened.
//!
//! Categories and templates are kept once they were read; a change of any record of the kind makes the copy stale (see
//! [`Mirror::generation`]). Recipients are not kept: they are many, and they are personal data. While the mirror is not
//! ready every look-up says so, also for what is kept: an answer is never a guess.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use peal_common::category::{CATEGORY_FACET, Category};
use peal_common::channel::{Channel, ChannelSet};
use peal_common::clock::Stamp;
use peal_common::envelope::{Accepted, ContactRef};
use peal_common::id::{AppId, CategoryId, NotificationId, RecipientId, TemplateId};
use peal_common::recipient::{Outline, Recipient};
use peal_common::seal::{SealError, Sealer};
use peal_common::settings::AccountSettings;
use peal_common::state::{Kind, Record, RecordKey};
use peal_common::suppression::{self, Suppression};
use peal_common::template::{CompiledTemplate, Template, TemplateCache};
use serde::Deserialize as _;
use serde_json::Value;

use crate::mirror::{Mirror, NotReady};

/// The facet of a cancellation that says that nobody is to send the notification.
pub const CANCELLED_FACET: &str = "cancelled";
/// The facet of a cancellation that names the region which took the notification over: no other one is to send it.
pub const TAKEN_OVER_FACET: &str = "taken_over_by";
/// The facet of a template's record, and of each of its versions', that holds the template as JSON.
pub const TEMPLATE_FACET: &str = "template";
/// The facet of a template's record that holds the number of its latest version. It outlives the template, so that a
/// number never names two texts.
pub const VERSION_FACET: &str = "version";
/// The facet of an account's record that holds its settings as JSON, sealed under the record's key.
pub const ACCOUNT_FACET: &str = "account";
/// How the ids of recipients begin that stand for an address which a notification named: `addr:<channel>:<index>`. The
/// API refuses to make others of that form.
pub const INLINE_PREFIX: &str = "addr:";

/// How many categories, and how many templates, are kept.
const KEPT: usize = 4_096;
/// How many compiled templates are kept.
const COMPILED: usize = 512;

/// Why something can't be looked up.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The mirror can't answer; ask again later.
    #[error(transparent)]
    NotReady(#[from] NotReady),
    /// The recipient's record can't be opened: it is damaged, or was sealed with another region key.
    #[error("the recipient's data cannot be opened")]
    Sealed(#[from] SealError),
    /// The record is there and holds no such object.
    #[error("the record of this {} cannot be read", .0.as_str())]
    Damaged(Kind),
}

/// Why a notification is not to be sent any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// It was cancelled.
    Cancelled,
    /// Another region took it over.
    TakenOver,
}

/// The current version of a template.
#[derive(Debug, Clone)]
pub struct CurrentTemplate {
    /// The number of the version, from 1.
    pub version: u32,
    /// The template.
    pub template: Arc<Template>,
}

/// Where a recipient is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    /// The channels on which it has a contact.
    pub channels: ChannelSet,
    /// Whether it is pinned to this region.
    pub pinned: bool,
}

/// A recipient's record as it was found.
#[derive(Debug)]
pub struct FoundRecipient {
    key: RecordKey,
    record: Record,
    /// What the mirror counted before it was asked.
    generations: [u64; 2],
}

impl FoundRecipient {
    /// What is known of the recipient without opening anything; `None` when it has been erased.
    #[must_use]
    pub fn outline(&self) -> Option<Outline> {
        Outline::read(&self.record)
    }
}

/// An account at a provider that an app brought along.
#[derive(Debug, Clone)]
pub struct AppAccount {
    /// The app: nobody else's messages go out with it.
    pub app: AppId,
    /// Its name.
    pub name: String,
    /// What there is to know of it.
    pub settings: AccountSettings,
    /// When that was written; `None` of what is not stored.
    pub written: Option<Stamp>,
}

/// Which account of which app, as of when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountVersion {
    app: AppId,
    name: String,
    written: Option<Stamp>,
}

impl AppAccount {
    /// What tells it from others, and from what it was before.
    #[must_use]
    pub fn version(&self) -> AccountVersion {
        AccountVersion { app: self.app.clone(), name: self.name.clone(), written: self.written.clone() }
    }
}

/// Typed look-ups in the mirror. Cheap to clone.
#[derive(Clone)]
pub struct Catalog {
    mirror: Mirror,
    sealer: Arc<Sealer>,
    categories: Arc<Kept<Option<Arc<Category>>>>,
    templates: Arc<Kept<Option<CurrentTemplate>>>,
    compiled: Arc<TemplateCache>,
}

impl Catalog {
    /// A catalog over a mirror.
    #[must_use]
    pub fn new(mirror: Mirror, sealer: Arc<Sealer>) -> Self {
        Catalog {
            mirror,
            sealer,
            categories: Arc::new(Kept::new(Kind::Category)),
            templates: Arc::new(Kept::new(Kind::Template)),
            compiled: Arc::new(TemplateCache::new(COMPILED)),
        }
    }

    /// The mirror that the catalog reads.
    #[must_use]
    pub fn mirror(&self) -> &Mirror {
        &self.mirror
    }

    /// What opens the recipients.
    #[must_use]
    pub fn sealer(&self) -> &Arc<Sealer> {
        &self.sealer
    }

    /// A category; `None` when the app has none of that name.
    ///
    /// # Errors
    /// [`CatalogError::NotReady`]; [`CatalogError::Damaged`] when its record can't be read.
    pub fn category(&self, app: &AppId, id: &CategoryId) -> Result<Option<Arc<Category>>, CatalogError> {
        self.categories.get(&self.mirror, RecordKey::new(Kind::Category, app, id.as_str()), |record| {
            Ok(read_category(record)?.map(Arc::new))
        })
    }

    /// The current version of a template; `None` when the app has none of that name.
    ///
    /// # Errors
    /// As [`Catalog::category`].
    pub fn template(&self, app: &AppId, id: &TemplateId) -> Result<Option<CurrentTemplate>, CatalogError> {
        self.templates.get(&self.mirror, RecordKey::new(Kind::Template, app, id.as_str()), read_template)
    }

    /// One version of a template, compiled; also of a template that has been deleted since. `None` when there never was
    /// such a version.
    ///
    /// # Errors
    /// As [`Catalog::category`].
    pub fn template_version(
        &self,
        app: &AppId,
        id: &TemplateId,
        version: u32,
    ) -> Result<Option<Arc<CompiledTemplate>>, CatalogError> {
        // A version never changes, so what was compiled stays right; the mirror is not asked.
        let compiled = self.compiled.get_or_compile(app.as_str(), id.as_str(), u64::from(version), || {
            let source = self.template_source(app, id, version).map_err(Some)?.ok_or(None)?;
            CompiledTemplate::new(&source).map_err(|_| Some(CatalogError::Damaged(Kind::TemplateVersion)))
        });
        match compiled {
            Ok(compiled) => Ok(Some(compiled)),
            Err(None) => Ok(None),
            Err(Some(error)) => Err(error),
        }
    }

    /// One version of a template as it was written.
    ///
    /// # Errors
    /// As [`Catalog::category`].
    pub fn template_source(
        &self,
        app: &AppId,
        id: &TemplateId,
        version: u32,
    ) -> Result<Option<Template>, CatalogError> {
        let Some(record) = self.mirror.get(&template_version_key(app, id, version))? else { return Ok(None) };
        match record.get(TEMPLATE_FACET) {
            Some(value) => Template::deserialize(value)
                .map(Some)
                .map_err(|_| CatalogError::Damaged(Kind::TemplateVersion)),
            None => Ok(None),
        }
    }

    /// The accounts that apps brought along. One that can't be read is told in the log, and is not there.
    ///
    /// # Errors
    /// [`CatalogError::NotReady`]
    pub fn accounts(&self) -> Result<Vec<AppAccount>, CatalogError> {
        let prefix = RecordKey::prefix_of_all(Kind::Account);
        let (mut accounts, mut after) = (Vec::new(), None);
        loop {
            let found = self.mirror.scan(&prefix, after.as_ref(), ACCOUNTS_AT_ONCE)?;
            let ended = found.len() < ACCOUNTS_AT_ONCE;
            for (key, record) in found {
                match read_account(&key, &record, &self.sealer) {
                    Ok(Some(account)) => accounts.push(account),
                    Ok(None) => {}
                    Err(error) => tracing::error!(%error, %key, "an account is left out"),
                }
                after = Some(key);
            }
            if ended {
                return Ok(accounts);
            }
        }
    }

    /// The key of a recipient's record: whichever is there or was, and that of one that may leave the region when none was.
    ///
    /// # Errors
    /// [`CatalogError::NotReady`]
    pub fn recipient_key(&self, app: &AppId, id: &RecipientId) -> Result<RecordKey, CatalogError> {
        let [usual, pinned] = recipient_keys(app, id);
        // One that was erased stays pinned: not even the id of it may leave.
        let is_pinned = self.mirror.reach(&usual)?.is_none() && self.mirror.get(&pinned)?.is_some();
        Ok(if is_pinned { pinned } else { usual })
    }

    /// A recipient's record; `None` when there is none, or none any more.
    ///
    /// # Errors
    /// [`CatalogError::NotReady`]
    pub fn find_recipient(
        &self,
        app: &AppId,
        id: &RecipientId,
    ) -> Result<Option<FoundRecipient>, CatalogError> {
        // Asked before the record is read: a change in between makes the copy stale at once.
        let generations = self.recipient_generations();
        for key in recipient_keys(app, id) {
            if let Some(record) = self.mirror.get(&key)?.filter(Record::exists) {
                return Ok(Some(FoundRecipient { key, record, generations }));
            }
        }
        Ok(None)
    }

    fn recipient_generations(&self) -> [u64; 2] {
        RECIPIENT_KINDS.map(|kind| self.mirror.generation(kind))
    }

    /// Whether what was found is still what stands: no recipient's record has changed since, and the mirror would answer.
    #[must_use]
    pub fn is_current(&self, found: &FoundRecipient) -> bool {
        self.mirror.is_ready() && self.recipient_generations() == found.generations
    }

    /// Opens what was found; `None` when the recipient has been erased.
    ///
    /// # Errors
    /// [`CatalogError::Sealed`] when it can't be opened.
    pub fn open(&self, found: &FoundRecipient) -> Result<Option<Recipient>, CatalogError> {
        Ok(Recipient::open(&found.record, &found.key, &self.sealer)?)
    }

    /// A recipient, opened; `None` when there is none, or none any more.
    ///
    /// # Errors
    /// [`CatalogError::NotReady`]; [`CatalogError::Sealed`] when its record can't be opened.
    pub fn recipient(&self, app: &AppId, id: &RecipientId) -> Result<Option<Recipient>, CatalogError> {
        let Some(found) = self.find_recipient(app, id)? else { return Ok(None) };
        self.open(&found)
    }

    /// What is known of a recipient without opening anything; `None` when there is none, or none any more.
    ///
    /// # Errors
    /// [`CatalogError::NotReady`]
    pub fn outline(&self, app: &AppId, id: &RecipientId) -> Result<Option<Outline>, CatalogError> {
        Ok(self.find_recipient(app, id)?.as_ref().and_then(FoundRecipient::outline))
    }

    /// Where a recipient is reached; `None` when there is no such recipient. Much cheaper than to open it.
    ///
    /// # Errors
    /// [`CatalogError::NotReady`]
    pub fn reach(&self, app: &AppId, id: &RecipientId) -> Result<Option<Reach>, CatalogError> {
        let [usual, pinned] = recipient_keys(app, id);
        if let Some(channels) = self.mirror.reach(&usual)? {
            return Ok(Some(Reach { channels, pinned: false }));
        }
        Ok(self.mirror.reach(&pinned)?.map(|channels| Reach { channels, pinned: true }))
    }

    /// The recipient who has this address, which must be in normal form, if the app has one.
    ///
    /// # Errors
    /// [`CatalogError::NotReady`]; always over a mirror without an index of contacts.
    pub fn recipient_with_address(
        &self,
        app: &AppId,
        channel: Channel,
        address: &str,
    ) -> Result<Option<RecipientId>, CatalogError> {
        let index = self.blind_index(app, channel, address);
        Ok(self.mirror.recipient_with(&index)?)
    }

    /// The name of an address in streams and records; the address must be in normal form.
    #[must_use]
    pub fn blind_index(&self, app: &AppId, channel: Channel, address: &str) -> String {
        self.sealer.blind_index(app, channel, address)
    }

    /// Whether a notification is not to be sent any more by this region.
    ///
    /// # Errors
    /// [`CatalogError::NotReady`]
    pub fn stopped(&self, notification: &Accepted) -> Result<Option<Stop>, CatalogError> {
        let key = cancellation_key(&notification.app, &notification.id, notification.pinned);
        let Some(record) = self.mirror.get(&key)? else { return Ok(None) };
        if record.get(CANCELLED_FACET).is_some() {
            return Ok(Some(Stop::Cancelled));
        }
        let elsewhere = record.get(TAKEN_OVER_FACET).and_then(Value::as_str);
        let elsewhere = elsewhere.filter(|region| *region != self.mirror.region().as_str());
        Ok(elsewhere.map(|_| Stop::TakenOver))
    }

    /// Why nothing is sent to an address any more, by its blind index; `None` when something may be. `pinned`: it is one
    /// of somebody who is pinned.
    ///
    /// # Errors
    /// [`CatalogError::NotReady`]
    pub fn suppression(
        &self,
        app: &AppId,
        channel: Channel,
        index: &str,
        pinned: bool,
    ) -> Result<Option<Suppression>, CatalogError> {
        for pinned in [Some(false), pinned.then_some(true)].into_iter().flatten() {
            let record = self.mirror.get(&suppression::key(app, channel, index, pinned))?;
            if let Some(found) = record.as_ref().and_then(Suppression::read) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Objects of one kind in one app, in the order of their keys, after the object `after`. Records of objects that do
    /// not exist any more are left out; `read` says `None` for these.
    ///
    /// # Errors
    /// [`CatalogError::NotReady`], and the errors of `read`.
    pub fn list<T>(
        &self,
        kind: Kind,
        app: &AppId,
        after: Option<&str>,
        limit: usize,
        mut read: impl FnMut(&str, &RecordKey, &Record) -> Result<Option<T>, CatalogError>,
    ) -> Result<Vec<(String, T)>, CatalogError> {
        let prefix = RecordKey::prefix(kind, app);
        let mut after = after.map(|id| RecordKey::new(kind, app, id));
        let mut out = Vec::new();
        while out.len() < limit {
            let wanted = limit.saturating_sub(out.len()).max(16);
            let found = self.mirror.scan(&prefix, after.as_ref(), wanted)?;
            let ended = found.len() < wanted;
            for (key, record) in found {
                if let Some(id) = key.id()
                    && out.len() < limit
                    && let Some(value) = read(&id, &key, &record)?
                {
                    out.push((id, value));
                }
                after = Some(key);
            }
            if ended {
                break;
            }
        }
        Ok(out)
    }

    /// The contacts of a recipient that nothing is sent to: of all, or of the one that the notification names.
    ///
    /// # Errors
    /// [`CatalogError::NotReady`]
    pub fn suppressed(
        &self,
        notification: &Accepted,
        recipient: &Outline,
        only: Option<&ContactRef>,
    ) -> Result<Vec<ContactRef>, CatalogError> {
        let mut suppressed = Vec::new();
        for contact in only.map_or(recipient.contacts.as_slice(), std::slice::from_ref) {
            // A phone number serves Alimtalk, too.
            let also = (contact.channel == Channel::Sms).then_some(Channel::Alimtalk);
            for channel in [Some(contact.channel), also].into_iter().flatten() {
                let found =
                    self.suppression(&notification.app, channel, &contact.index, notification.pinned)?;
                if found.is_some_and(|found| found.holds_for(channel, recipient.registered_ms)) {
                    suppressed.push(ContactRef { channel, index: contact.index.clone() });
                }
            }
        }
        Ok(suppressed)
    }

    /// Objects of one kind and then of another, as [`Catalog::list`] gives them; in `after` and in what comes back, the ids
    /// of the second kind begin with `mark`.
    ///
    /// # Errors
    /// As [`Catalog::list`].
    pub fn list_both<T>(
        &self,
        kinds: [Kind; 2],
        mark: &str,
        app: &AppId,
        after: Option<String>,
        limit: usize,
        read: impl Fn(&str, &RecordKey, &Record) -> Result<Option<T>, CatalogError>,
    ) -> Result<Vec<(String, T)>, CatalogError> {
        let [first, second] = kinds;
        let (kinds, mut after) = match after.as_deref().and_then(|after| after.strip_prefix(mark)) {
            Some(after) => (vec![(second, mark)], Some(after.to_owned())),
            None => (vec![(first, ""), (second, mark)], after),
        };
        let mut all = Vec::new();
        for (kind, mark) in kinds {
            let missing = limit.saturating_sub(all.len());
            let found = self.list(kind, app, after.take().as_deref(), missing, &read)?;
            all.extend(found.into_iter().map(|(id, value)| (format!("{mark}{id}"), value)));
        }
        Ok(all)
    }
}

/// How many accounts are read at once.
const ACCOUNTS_AT_ONCE: usize = 256;

/// Opens an account's record. `None` when it was deleted.
///
/// # Errors
/// [`CatalogError::Sealed`]; [`CatalogError::Damaged`] when what was sealed is none.
pub fn read_account(
    key: &RecordKey,
    record: &Record,
    sealer: &Sealer,
) -> Result<Option<AppAccount>, CatalogError> {
    let Some(value) = record.get(ACCOUNT_FACET) else { return Ok(None) };
    let damaged = || CatalogError::Damaged(Kind::Account);
    let sealed = value.as_str().ok_or_else(damaged)?;
    let settings = sealer.open_secret(sealed, key.as_str())?;
    let settings = serde_json::from_str(&settings).map_err(|_| damaged())?;
    let (app, name) = (key.app().ok_or_else(damaged)?, key.id().ok_or_else(damaged)?);
    Ok(Some(AppAccount { app, name, settings, written: record.latest().cloned() }))
}

/// What a recipient's record may be: the usual one, and the one that stays in the region.
const RECIPIENT_KINDS: [Kind; 2] = [Kind::Recipient, Kind::PinnedRecipient];

/// The keys under which it may stand.
fn recipient_keys(app: &AppId, id: &RecipientId) -> [RecordKey; 2] {
    RECIPIENT_KINDS.map(|kind| RecordKey::new(kind, app, id.as_str()))
}

/// The key of the record that stops a notification.
#[must_use]
pub fn cancellation_key(app: &AppId, id: &NotificationId, pinned: bool) -> RecordKey {
    let kind = if pinned { Kind::PinnedCancellation } else { Kind::Cancellation };
    RecordKey::new(kind, app, id.as_str())
}

/// The key of one version of a template: its id is `<template>~<version>`; a template's own id has no `~`.
#[must_use]
pub fn template_version_key(app: &AppId, id: &TemplateId, version: u32) -> RecordKey {
    RecordKey::new(Kind::TemplateVersion, app, &format!("{id}~{version}"))
}

/// Reads a category's record. `None` when the category has been deleted.
///
/// # Errors
/// [`CatalogError::Damaged`] when it holds something else.
pub fn read_category(record: &Record) -> Result<Option<Category>, CatalogError> {
    let Some(value) = record.get(CATEGORY_FACET) else { return Ok(None) };
    Category::deserialize(value).map(Some).map_err(|_| CatalogError::Damaged(Kind::Category))
}

/// Reads a template's record. `None` when the template has been deleted.
///
/// # Errors
/// [`CatalogError::Damaged`] when it holds something else.
pub fn read_template(record: &Record) -> Result<Option<CurrentTemplate>, CatalogError> {
    let Some(value) = record.get(TEMPLATE_FACET) else { return Ok(None) };
    let damaged = CatalogError::Damaged(Kind::Template);
    let Some(version) = latest_version(record) else { return Err(damaged) };
    let template = Template::deserialize(value).map_err(|_| damaged)?;
    Ok(Some(CurrentTemplate { version, template: Arc::new(template) }))
}

/// The number of a template's latest version, also when the template itself has been deleted.
#[must_use]
pub fn latest_version(record: &Record) -> Option<u32> {
    record.get(VERSION_FACET).and_then(Value::as_u64).and_then(|number| u32::try_from(number).ok())
}

/// Objects that were read from records of one kind, each with the generation it was read at.
struct Kept<T> {
    kind: Kind,
    entries: Mutex<HashMap<RecordKey, (u64, T)>>,
}

impl<T: Clone + Default> Kept<T> {
    fn new(kind: Kind) -> Self {
        Kept { kind, entries: Mutex::default() }
    }

    fn get(
        &self,
        mirror: &Mirror,
        key: RecordKey,
        read: impl FnOnce(&Record) -> Result<T, CatalogError>,
    ) -> Result<T, CatalogError> {
        if !mirror.is_ready() {
            return Err(NotReady("it is being filled from JetStream").into());
        }
        // Asked before the record is read: a change in between makes the copy stale at once.
        let generation = mirror.generation(self.kind);
        if let Some((at, value)) = self.lock().get(&key)
            && *at == generation
        {
            return Ok(value.clone());
        }
        let value = match mirror.get(&key)? {
            Some(record) => read(&record)?,
            None => T::default(),
        };
        let mut entries = self.lock();
        if entries.len() >= KEPT && !entries.contains_key(&key) {
            entries.retain(|_, (at, _)| *at == generation);
            if entries.len() >= KEPT {
                entries.clear();
            }
        }
        entries.insert(key, (generation, value.clone()));
        Ok(value)
    }

    // An entry is whole before it is inserted, so a panic elsewhere leaves nothing half done.
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<RecordKey, (u64, T)>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
