//! FCM: what Firebase gets, against Google's own description of the API.
//!
//! The description is what Google's clients for Python are made from (an API discovery document). It names fields in
//! camel case; as everywhere in JSON forms of protocol buffers, the names with underscores that Firebase's own
//! reference has are taken too.

use peal_common::channel::Priority;
use peal_common::settings::FcmSettings;
use peal_dispatcher::channels::Message;
use peal_dispatcher::channels::fcm::Client;
use peal_dispatcher::recording::Fcm;
use serde_json::{Value, json};

use super::fcm::{client_with, complete, device, settings};
use super::fixture::{Fixture, clock};
use super::peers::published;

/// An API discovery document (Google, "JSON type system").
struct Api(Value);

impl Api {
    /// What is wrong with a value as an instance of the schema of that name.
    fn findings(&self, name: &str, value: &Value) -> Vec<String> {
        let mut findings = Vec::new();
        self.check(&json!({"$ref": name}), value, name, &mut findings);
        findings
    }

    fn check(&self, schema: &Value, value: &Value, path: &str, findings: &mut Vec<String>) {
        if let Some(name) = schema["$ref"].as_str() {
            let named = &self.0["schemas"][name];
            assert!(named.is_object(), "there is no {name}");
            return self.check(named, value, path, findings);
        }
        let fits = match schema["type"].as_str().expect("a type") {
            "object" => return self.check_object(schema, value, path, findings),
            "array" => {
                let Some(items) = value.as_array() else { return findings.push(format!("{path}: no array")) };
                for (index, item) in items.iter().enumerate() {
                    self.check(&schema["items"], item, &format!("{path}[{index}]"), findings);
                }
                true
            }
            "string" => value.as_str().is_some_and(|text| is_text(schema, text)),
            "boolean" => value.is_boolean(),
            "integer" => value.is_i64(),
            "number" => value.is_number(),
            "any" => true,
            other => panic!("{path}: the type {other} is not known"),
        };
        if !fits {
            findings.push(format!("{path}: {value} does not fit {schema}"));
        }
    }

    fn check_object(&self, schema: &Value, value: &Value, path: &str, findings: &mut Vec<String>) {
        let Some(fields) = value.as_object() else { return findings.push(format!("{path}: no object")) };
        for (name, value) in fields {
            let path = format!("{path}.{name}");
            let own = &schema["properties"][camel_case(name)];
            let field = if own.is_null() { &schema["additionalProperties"] } else { own };
            let is_output = field["readOnly"] == true
                || field["description"].as_str().is_some_and(|text| text.starts_with("Output Only"));
            if field.is_null() || is_output {
                findings.push(format!("{path}: there is no such field"));
            } else {
                self.check(field, value, &path, findings);
            }
        }
    }
}

fn is_text(schema: &Value, text: &str) -> bool {
    let is_known = schema["enum"].as_array().is_none_or(|words| words.iter().any(|word| word == text));
    let is_formed = match schema["format"].as_str() {
        // Seconds with at most nine decimals and an s.
        Some("google-duration") => text.strip_suffix('s').is_some_and(|seconds| {
            let (whole, parts) = seconds.split_once('.').unwrap_or((seconds, "0"));
            let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|it| it.is_ascii_digit());
            is_number(whole) && is_number(parts) && parts.len() <= 9
        }),
        Some(other) => panic!("the format {other} is not known"),
        None => true,
    };
    is_known && is_formed
}

fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |all, word| {
        let (head, tail) = word.split_at(word.chars().next().map_or(0, char::len_utf8));
        all + &head.to_uppercase() + tail
    })
}

async fn pushed(client: &Client, server: &Fcm, fixture: &Fixture, priority: Priority) -> Value {
    let message = Message { priority, collapse_key: Some("order-1042"), ..fixture.message() };
    client.send(&message).await;
    server.pushes().last().unwrap().json()
}

#[tokio::test]
async fn what_is_sent_is_what_google_describes() {
    let Some(api) = published("fcm.v1.json").await.map(Api) else { return };
    let server = Fcm::start().await.unwrap();
    let settings = FcmSettings { validate_only: true, ..settings(&server) };
    let client = client_with(&settings, clock());
    let mut for_app = device(1);
    for_app.metadata.insert("fcm".to_owned(), json!({"data_only": true, "analytics_label": "sync"}));
    let mut for_apple = complete();
    for_apple.metadata.insert("apns".to_owned(), json!({"badge": 3, "interruption_level": "critical"}));
    for fixture in [complete(), device(1), for_app, for_apple] {
        for priority in Priority::ALL {
            let push = pushed(&client, &server, &fixture, priority).await;
            assert_eq!(api.findings("SendMessageRequest", &push), Vec::<String>::new());
        }
    }

    let send = &api.0["resources"]["projects"]["resources"]["messages"]["methods"]["send"];
    assert_eq!((&send["httpMethod"], &send["path"]), (&json!("POST"), &json!("v1/{+parent}/messages:send")));
    let scope = json!("https://www.googleapis.com/auth/firebase.messaging");
    assert!(send["scopes"].as_array().unwrap().contains(&scope));
    assert_eq!(send["request"]["$ref"], "SendMessageRequest");
    assert_eq!(api.0["baseUrl"], "https://fcm.googleapis.com/");
}

#[tokio::test]
async fn what_google_does_not_describe_is_found() {
    let Some(api) = published("fcm.v1.json").await.map(Api) else { return };
    let server = Fcm::start().await.unwrap();
    let client = client_with(&settings(&server), clock());
    let good = pushed(&client, &server, &complete(), Priority::Normal).await;
    let wrong = [
        ("", "validateonly", json!(true)),
        ("", "validate_only", json!("true")),
        ("/message", "tokens", json!(["a"])),
        ("/message", "name", json!("projects/shop-1042/messages/1")),
        ("/message", "data", json!("text")),
        ("/message/data", "count", json!(7)),
        ("/message/notification", "text", json!("a")),
        ("/message/android", "priority", json!("high")),
        ("/message/android", "ttl", json!(30)),
        ("/message/android", "ttl", json!("30")),
        ("/message/android", "collapse-key", json!("a")),
        ("/message/android/notification", "channel", json!("a")),
        ("/message/android/notification", "notification_count", json!("3")),
        ("/message/webpush/headers", "TTL", json!(30)),
        ("/message/webpush/fcm_options", "url", json!("https://example.com")),
        ("/message/apns", "aps", json!({})),
        ("/message/fcm_options", "label", json!("a")),
    ];
    for (place, field, value) in wrong {
        let mut bad = good.clone();
        bad.pointer_mut(place).unwrap()[field] = value;
        let findings = api.findings("SendMessageRequest", &bad);
        assert!(findings.len() == 1 && findings[0].contains(field), "{place}/{field}: {findings:?}");
    }
}
