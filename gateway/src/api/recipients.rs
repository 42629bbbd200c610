//! Recipients. What is personal is sealed with the recipient's own data key before it leaves this process; deleting a
//! recipient destroys that key, here and in every region, and takes the inbox along.

use axum::extract::State;
use peal_common::address::AddressError;
use peal_common::channel::Channel;
use peal_common::clock::Stamp;
use peal_common::id::{AppId, RecipientId};
use peal_common::problem::FieldError;
use peal_common::recipient::{Recipient, RecipientBody, is_there, write_body};
use peal_common::state::{Kind, Record, RecordKey};
use peal_nats::catalog::{CatalogError, INLINE_PREFIX};
use peal_nats::topology::INBOX;
use serde::Serialize;
use utoipa::ToSchema;

use super::page::{Page, PageQuery};
use crate::accept::wrong_region;
use crate::app::App;
use crate::http::auth::Caller;
use crate::http::json::Json;
use crate::http::params::{Id, Query};
use crate::http::problem::{NoContent, Problem, ProblemBody, Put};

/// Where recipients stand, in the order of the list.
const KINDS: [Kind; 2] = [Kind::Recipient, Kind::PinnedRecipient];
/// What the cursors of pinned recipients begin with; no id does.
const PINNED_CURSOR: &str = "!";

/// A recipient, as the API gives it.
#[derive(Debug, Serialize, ToSchema)]
pub struct RecipientView {
    /// Its id.
    pub id: RecipientId,
    #[serde(flatten)]
    body: RecipientBody,
}

/// Makes a recipient, or replaces its profile and contacts. Preferences stay as they are. The answer is the recipient as
/// it is kept, addresses in normal form.
#[utoipa::path(put, path = "/v1/recipients/{id}", tag = "recipients", request_body = RecipientBody,
    params(("id" = String, Path, description = "1 to 128 characters of A-Z a-z 0-9 _ : - . @ + = ~; not personal data")),
    responses(
        (status = 200, description = "replaced", body = RecipientView),
        (status = 201, description = "made", body = RecipientView),
        (status = "default", description = "a problem", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub async fn put(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<RecipientId>,
    Json(body): Json<RecipientBody>,
) -> Result<Put<RecipientView>, Problem> {
    if id.as_str().starts_with(INLINE_PREFIX) {
        let detail = "ids that begin with addr: stand for addresses that notifications named; choose another";
        return Err(Problem::invalid_field("id", "reserved", detail));
    }
    let mut body = body.normalize()?;
    check_urls(&app, &body)?;
    let here = &app.connection.region;
    if let Some(error) = body.pinned_to.as_ref().and_then(|region| wrong_region(region, here)) {
        return Err(Problem::invalid(vec![error]));
    }
    let pinned = body.pinned_to.is_some() || app.settings.region.pinned;
    body.pinned_to = pinned.then(|| here.clone());
    let kind = if pinned { Kind::PinnedRecipient } else { Kind::Recipient };
    let key = RecordKey::new(kind, &caller.app, id.as_str());
    if app.catalog.reach(&caller.app, &id)?.is_some_and(|reach| reach.pinned != pinned) {
        let detail = "whether a recipient is pinned can't be changed: delete it, and then make it anew";
        return Err(Problem::conflict("pinned_differs", detail));
    }
    let mut is_new = false;
    let change = |record: &mut Record, stamp: &Stamp| {
        is_new = !is_there(record);
        // Sealing again would make another text of the same content: what is the same stays as it is. A device whose token
        // was given up registers again by this.
        let known = Recipient::open(record, &key, &app.sealer)?;
        let same = known.as_ref().is_some_and(|known| known.body == body);
        if !same || has_dead_device(&app, &caller.app, known.as_ref(), pinned)? {
            write_body(record, &key, &caller.app, &body, stamp, &app.sealer, &mut rand::rng())?;
        }
        Ok::<_, Problem>(())
    };
    let written = app.writer.update(&key, change).await?;
    app.settle(&key, &written).await;
    let view = RecipientView { id, body };
    Ok(if is_new { Put::New(view) } else { Put::Changed(view) })
}

/// Whether nothing is sent to one of the recipient's devices any more.
fn has_dead_device(
    app: &App,
    owner: &AppId,
    recipient: Option<&Recipient>,
    pinned: bool,
) -> Result<bool, CatalogError> {
    let Some(recipient) = recipient else { return Ok(false) };
    for (contact, index) in recipient.body.contacts.iter().zip(&recipient.indexes) {
        if contact.channel.is_push()
            && let Some(found) = app.catalog.suppression(owner, contact.channel, index, pinned)?
            && found.holds_for(contact.channel, recipient.registered_ms)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A call to a private address would be refused when it is made; whoever registers such a contact is told now.
fn check_urls(app: &App, body: &RecipientBody) -> Result<(), Vec<FieldError>> {
    let error = AddressError::PrivateTarget;
    let errors: Vec<_> = body
        .contacts
        .iter()
        .enumerate()
        .filter_map(|(index, contact)| {
            let field = match contact.channel {
                Channel::Webhook => "address",
                Channel::Webpush => "subscription.endpoint",
                _ => return None,
            };
            let private = !app.acceptor.allows_webhook(contact.identity());
            private.then(|| {
                FieldError::new(format!("contacts[{index}].{field}"), error.code(), error.to_string())
            })
        })
        .collect();
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// One recipient.
#[utoipa::path(get, path = "/v1/recipients/{id}", tag = "recipients",
    params(("id" = String, Path, description = "the recipient")),
    responses(
        (status = 200, description = "the recipient", body = RecipientView),
        (status = "default", description = "a problem", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub async fn get(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<RecipientId>,
) -> Result<Json<RecipientView>, Problem> {
    let found = app.catalog.recipient(&caller.app, &id)?.ok_or_else(|| Problem::not_found("recipient"))?;
    Ok(Json(RecipientView { id, body: found.body }))
}

/// Recipients by id. Those that stand for an address which a notification named are left out.
#[utoipa::path(get, path = "/v1/recipients", tag = "recipients", params(PageQuery), responses(
    (status = 200, description = "a page of recipients", body = Page<RecipientView>),
    (status = "default", description = "a problem", body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<RecipientView>>, Problem> {
    let (limit, after) = (page.limit()?, page.after()?);
    // Opening hundreds of recipients takes milliseconds of arithmetic, which belong on a thread of their own.
    let found = tokio::task::spawn_blocking(move || {
        let read = |id: &str, key: &RecordKey, record: &Record| {
            let Ok(id) = id.parse::<RecipientId>() else { return Ok(None) };
            if id.as_str().starts_with(INLINE_PREFIX) {
                return Ok(None);
            }
            let found = Recipient::open(record, key, &app.sealer)?;
            Ok(found.map(|found| RecipientView { id, body: found.body }))
        };
        // Those who are pinned come behind the others, and so do their cursors.
        app.catalog.list_both(KINDS, PINNED_CURSOR, &caller.app, after, limit + 1, read)
    });
    let found = found.await.map_err(|_| Problem::internal())??;
    Ok(Json(Page::of(found, limit)))
}

/// Erases a recipient: the key that seals its data is destroyed, its inbox is emptied, and nothing that was written
/// without knowing of it brings the recipient back. Erasing one that is not there does no harm.
#[utoipa::path(delete, path = "/v1/recipients/{id}", tag = "recipients",
    params(("id" = String, Path, description = "the recipient")),
    responses(
        (status = 204, description = "erased"),
        (status = "default", description = "a problem", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub async fn delete(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<RecipientId>,
) -> Result<NoContent, Problem> {
    let mut key = app.catalog.recipient_key(&caller.app, &id)?;
    if app.mirror.get(&key)?.is_none() {
        // Another gateway may just have made it, pinned.
        let pinned = RecordKey::new(Kind::PinnedRecipient, &caller.app, id.as_str());
        if app.writer.fetch(&pinned).await?.1 != Record::default() {
            key = pinned;
        }
    }
    let change = |record: &mut Record, stamp: &Stamp| {
        // Another region may have written what has not come here yet: the erasure wins over that too.
        if !record.facets.is_empty() || !app.connection.others.is_empty() {
            record.erase(stamp);
        }
        Ok::<_, Problem>(())
    };
    let written = app.writer.update(&key, change).await?;
    // Also when the recipient was gone already: an earlier attempt may have ended here.
    app.connection.purge(INBOX, &app.subjects.inbox_of(caller.app.as_str(), id.as_str())).await?;
    app.settle(&key, &written).await;
    app.model.forget(&caller.app, &id, i64::MAX).await?;
    Ok(NoContent)
}
