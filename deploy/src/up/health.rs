//! Whether nats-server still takes writes, and whether there is room on its disk.
//!
//! After a write that failed for lack of room, nats-server 2.15 refuses every further write to that stream until it is
//! started again, also when there is room. Its `/healthz` says so with 503. So it has to be started again, but only
//! once there is room: before that it would fail again, and clients would lose their connections for nothing.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::api;

/// How often the server is asked.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long one answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// How long a server is left alone that says it is unwell: some causes go away by themselves.
const UNWELL_FOR: Duration = Duration::from_secs(3);
/// How much must fit before there is room: some of the server's writes, while one that fails soon again helps nobody.
const ROOM_BYTES: usize = 1024 * 1024;
/// The file that is written to find out. It lies beside the folder of the streams: in there, nats-server would take it
/// for an account.
const ROOM_FILE: &str = "room.probe";

/// Where to look.
#[derive(Debug, Clone)]
pub struct Probe {
    client: reqwest::Client,
    url: String,
    folder: PathBuf,
}

impl Probe {
    /// Asks the server that monitors at `monitor`, such as `http://127.0.0.1:8222`, and whose files are on the disk of
    /// `folder`.
    ///
    /// # Errors
    /// When there can be no HTTP client.
    pub fn new(monitor: &str, folder: PathBuf) -> anyhow::Result<Self> {
        Ok(Probe { client: api::client()?, url: format!("{monitor}/healthz"), folder })
    }

    /// Waits until the server has said for a while, without a break, that it is unwell; returns what it said last.
    pub async fn unwell(&self) -> String {
        let mut since = None;
        loop {
            match self.complaint().await {
                None => since = None,
                Some(complaint) => {
                    if since.get_or_insert_with(Instant::now).elapsed() >= UNWELL_FOR {
                        return complaint;
                    }
                }
            }
            sleep(INTERVAL).await;
        }
    }

    /// Waits until an unwell server may be started again: `true` when there is room, `false` when it has become well
    /// without that.
    pub async fn curable(&self) -> bool {
        loop {
            if self.complaint().await.is_none() {
                return false;
            }
            if has_room(&self.folder).await {
                return true;
            }
            sleep(INTERVAL).await;
        }
    }

    /// What the server complains of. No answer is no complaint: one that hangs or is gone is not seen here, and nothing
    /// is known of its disk.
    async fn complaint(&self) -> Option<String> {
        let answer = self.client.get(&self.url).timeout(ANSWER_LIMIT).send().await.ok()?;
        if answer.status() != reqwest::StatusCode::SERVICE_UNAVAILABLE {
            return None;
        }
        let said: serde_json::Value = answer.json().await.unwrap_or_default();
        Some(said["error"].as_str().unwrap_or("it does not say why").to_owned())
    }
}

/// Waits until there is room on the disk of a folder.
pub async fn room(folder: &Path) {
    while !has_room(folder).await {
        sleep(INTERVAL).await;
    }
}

/// Whether there is room on the disk of a folder, found out by writing: what a file system says of its free space is
/// not what this user may take. Another failure than a full disk counts as room, since waiting would not help.
pub async fn has_room(folder: &Path) -> bool {
    let path = folder.join(ROOM_FILE);
    let wrote = tokio::task::spawn_blocking(move || {
        let wrote = File::create(&path).and_then(|mut file| {
            file.write_all(&vec![0; ROOM_BYTES])?;
            // Some file systems find out only now.
            file.sync_all()
        });
        // A file that could not be made is not there.
        let _ = std::fs::remove_file(&path);
        wrote
    });
    !matches!(wrote.await, Ok(Err(error)) if is_full(&error))
}

/// Whether an error says that the disk, or this user's share of it, is full.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::http::StatusCode;
    use axum::routing::get;

    use super::*;

    #[tokio::test]
    async fn looking_for_room_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        assert!(has_room(folder.path()).await);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn only_a_server_that_complains_is_unwell() {
        let said = r#"{"status":"unavailable","error":"write error: no space left on device"}"#;
        let routes = Router::new()
            .route("/sick/healthz", get(move || async move { (StatusCode::SERVICE_UNAVAILABLE, said) }))
            .route("/well/healthz", get(|| async { r#"{"status":"ok"}"# }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move { axum::serve(listener, routes).await });
        let folder = tempfile::tempdir().unwrap();
        let probe =
            |path: &str| Probe::new(&format!("http://{address}/{path}"), folder.path().to_owned()).unwrap();
        assert_eq!(probe("sick").complaint().await.as_deref(), Some("write error: no space left on device"));
        assert!(probe("sick").curable().await);
        assert_eq!(probe("well").complaint().await, None);
        assert!(!probe("well").curable().await);
        serving.abort();
        let _ = serving.await;
        assert_eq!(probe("sick").complaint().await, None);
    }
}
