//! What an erasure asks for beyond the record itself, wherever it was accepted: this region's stream forgets what it
//! still holds, INBOX loses the recipient's items, and so does this gateway's read model.
//!
//! Every gateway does this for every erasure that its mirror sees. All of it can be done twice, and what fails is tried
//! again; the mirror keeps the list across restarts.

use std::collections::HashSet;
use std::time::Duration;

use peal_common::clock::Stamp;
use peal_common::id::RecipientId;
use peal_common::state::{Kind, RecordKey};
use peal_nats::topology::INBOX;
use tokio_util::sync::CancellationToken;

use crate::app::App;

/// How many are looked at before the list is read again.
const AT_ONCE: usize = 100;
/// The wait after something failed.
const PAUSE: Duration = Duration::from_secs(2);

/// Carries erasures out until `stop`.
pub async fn run(app: App, stop: CancellationToken) {
    let work = async {
        loop {
            app.mirror.erased().await;
            while !all_done(&app).await {
                tokio::time::sleep(PAUSE).await;
            }
        }
    };
    stop.run_until_cancelled(work).await;
}

/// Works the list off. Whether nothing is left; one that fails keeps no other waiting.
async fn all_done(app: &App) -> bool {
    let mut failed = HashSet::new();
    loop {
        // While the mirror is filled, records that are erased may not be so any more further on.
        let Ok(mut listed) = app.mirror.erasures(AT_ONCE + failed.len()) else { return false };
        listed.retain(|(key, _)| !failed.contains(key));
        if listed.is_empty() {
            return failed.is_empty();
        }
        for (key, era) in listed {
            if let Err(error) = carry_out(app, &key, &era).await {
                // The error names neither the record nor what was in it.
                tracing::warn!(error = error.as_ref() as &dyn std::error::Error, "an erasure is tried again");
                failed.insert(key);
            }
        }
    }
}

type Failed = Box<dyn std::error::Error + Send + Sync>;

async fn carry_out(app: &App, key: &RecordKey, era: &Stamp) -> Result<(), Failed> {
    let record = app.mirror.get(key)?.unwrap_or_default();
    app.writer.take_over_erasure(key, record).await?;
    // A recipient who was made anew since has an inbox again, whose items stay. Older ones that are still in INBOX can't
    // be read: what sealed them is gone.
    let recipient = key.id().and_then(|id| id.parse::<RecipientId>().ok());
    if let (Some(Kind::Recipient | Kind::PinnedRecipient), Some(owner), Some(recipient)) =
        (key.kind(), key.app(), recipient)
    {
        let exists = app.catalog.reach(&owner, &recipient)?.is_some();
        if !exists {
            app.connection.purge(INBOX, &app.subjects.inbox_of(owner.as_str(), recipient.as_str())).await?;
        }
        // A dispatcher that had not heard of the erasure may have written an item after it.
        let until_ms = if exists { i64::try_from(era.ms).unwrap_or(i64::MAX) } else { i64::MAX };
        app.model.forget(&owner, &recipient, until_ms).await?;
    }
    Ok(app.mirror.erasure_done(key, era).await?)
}
