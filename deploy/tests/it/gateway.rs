//! The gateway of a region, called with curl as anybody would.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::{finished, peal};

/// No condition takes longer.
pub const LIMIT: Duration = Duration::from_secs(60);

/// One region's gateway, with the key that all regions know.
pub struct Gateway {
    pub url: String,
    pub user: String,
}

impl Gateway {
    pub fn of(region: &Value) -> Self {
        let text = |name: &str| region[name].as_str().unwrap().to_owned();
        Gateway { url: text("api"), user: format!("{}:{}", text("key"), text("secret")) }
    }

    pub async fn call(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-f", "-u", &self.user, "-X", method, &format!("{}{path}", self.url)]);
        if let Some(body) = body {
            curl.args(["-H", "Content-Type: application/json", "-d", &body.to_string()]);
        }
        serde_json::from_str(&finished(&mut curl).await.exits(0).stdout).unwrap()
    }

    /// Hands in a notification. `None` when nobody listens, or it can't be taken now.
    pub async fn try_send(&self, notification: &Value) -> Option<Value> {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-f", "-m", "10", "-u", &self.user, "-H", "Content-Type: application/json"]);
        curl.args(["-d", &notification.to_string(), &format!("{}/v1/notifications", self.url)]);
        let ran = finished(&mut curl).await;
        (ran.code == Some(0)).then(|| ran.json())
    }

    /// The text of a page.
    pub async fn page(&self, path: &str) -> String {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-f", &format!("{}{path}", self.url)]);
        finished(&mut curl).await.exits(0).stdout
    }

    /// The code with which something is refused.
    pub async fn refusal(&self, path: &str, body: &Value) -> String {
        self.refused("POST", path, body).await["code"].as_str().unwrap().to_owned()
    }

    /// The problem with which something is refused.
    pub async fn refused(&self, method: &str, path: &str, body: &Value) -> Value {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-u", &self.user, "-X", method, "-H", "Content-Type: application/json"]);
        if !body.is_null() {
            curl.args(["-d", &body.to_string()]);
        }
        let answer = finished(curl.arg(format!("{}{path}", self.url))).await.exits(0).json();
        assert!(answer["code"].is_string(), "not refused: {answer}");
        answer
    }

    pub async fn deleted(&self, path: &str) {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-f", "-u", &self.user, "-X", "DELETE", &format!("{}{path}", self.url)]);
        finished(&mut curl).await.exits(0);
    }

    pub async fn eventually_lacks(&self, path: &str, delete: impl AsyncFnOnce()) {
        self.call("GET", path, None).await;
        delete().await;
        let gone = async {
            let mut curl = Command::new("curl");
            curl.args(["-sS", "-u", &self.user, &format!("{}{path}", self.url)]);
            while finished(&mut curl).await.exits(0).json()["code"] != "not_found" {}
        };
        tokio::time::timeout(LIMIT, gone).await.unwrap_or_else(|_| panic!("{path} never goes"));
    }

    pub async fn preferences(&self) -> Value {
        self.call("GET", "/v1/recipients/demo-user/preferences", None).await
    }

    pub async fn set_preferences(&self, body: Value) {
        self.call("PUT", "/v1/recipients/demo-user/preferences", Some(body)).await;
    }

    pub async fn eventually_prefers(&self, expected: &Value) {
        let waiting = async { while self.preferences().await != *expected {} };
        let told = || format!("{} never has {expected}", self.url);
        tokio::time::timeout(LIMIT, waiting).await.unwrap_or_else(|_| panic!("{}", told()));
    }

    pub async fn eventually_regions(&self, what: &str, holds: impl Fn(&Value) -> bool) {
        let mut found = Value::Null;
        let waiting = async {
            while !holds(&found) {
                found = self.call("GET", "/v1/regions", None).await["data"].take();
            }
        };
        let ended = tokio::time::timeout(LIMIT, waiting).await;
        assert!(ended.is_ok(), "{}: never {what}: {found}", self.url);
    }

    pub async fn eventually_delivered(&self, id: &str, region: &str, recipient: &str) {
        let path = format!("/v1/notifications?recipient={recipient}");
        let found = async {
            loop {
                let all = self.call("GET", &path, None).await;
                let found = all["data"].as_array().unwrap().iter().find(|found| found["id"] == id).cloned();
                if let Some(found) =
                    found.filter(|found| found["status"] == "sent" && found["region"] == region)
                {
                    break found;
                }
            }
        };
        let found = tokio::time::timeout(LIMIT, found).await;
        assert!(found.is_ok(), "{}: {id} of {region} is not known as sent", self.url);
    }

    /// The first delivery of a notification, as soon as it is as wanted.
    pub async fn eventually_has_delivery(&self, id: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
        let path = format!("/v1/notifications/{id}");
        let found = async {
            loop {
                let delivery = self.call("GET", &path, None).await["deliveries"][0].clone();
                if is_wanted(&delivery) {
                    break delivery;
                }
            }
        };
        tokio::time::timeout(LIMIT, found).await.unwrap_or_else(|_| panic!("{}: {id} stays", self.url))
    }

    pub async fn send(&self, folder: &Path, id: &str) {
        let mut send = peal(folder);
        let (key, secret) = self.user.split_once(':').unwrap();
        send.args(["send", "--to", "demo-user", "--category", "demo", "--title", "Hi", "--id", id, "--wait"]);
        send.args(["--url", &self.url, "--key", key]).env("PEAL_SECRET", secret);
        finished(&mut send).await.exits(0);
    }

    /// Waits until an id that another region accepted is known here. Nothing is accepted by asking.
    pub async fn eventually_knows_of(&self, id: &str) {
        let body = json!({ "id": id, "category": "demo", "to": [{ "recipient": "nobody" }],
                           "content": { "title": "Hi", "body": "Once" } });
        let told = async { while self.refusal("/v1/notifications", &body).await != "id_reused" {} };
        let told = tokio::time::timeout(LIMIT, told).await;
        told.unwrap_or_else(|_| panic!("{} is never told of {id}", self.url));
    }
}
