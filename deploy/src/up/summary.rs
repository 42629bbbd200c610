//! What `peal up` tells when everything runs.

use std::fmt::Write as _;

use peal_nats::Region;
use serde_json::{Value, json};

use super::first::{CATEGORY, RECIPIENT};
use super::folder::Folder;
use super::place::Place;
use crate::credentials::Credentials;

/// Everything that a person, or a program, needs from now on.
#[derive(Debug)]
pub struct Summary<'a> {
    /// Where everything is.
    pub folder: &'a Folder,
    /// The gateway and its key.
    pub credentials: &'a Credentials,
    /// The dispatcher's address.
    pub dispatcher: String,
    /// The NATS server's address.
    pub nats: String,
    /// The notification that was delivered, as the API shows it.
    pub notification: &'a Value,
    /// How long it took from the start, in seconds.
    pub seconds: f64,
}

/// What `peal up --regions` tells people: the regions, one key for all of them, and what to try.
#[must_use]
pub fn several(regions: &[Region], summaries: &[Summary<'_>], hub: &Place) -> String {
    let mut text = String::new();
    let (Some(first), Some(last)) = (summaries.first(), summaries.last()) else { return text };
    let seconds = last.seconds;
    // Writing to a String does not fail.
    let _ = writeln!(
        text,
        "\n{} regions are running, linked by a hub; each delivered a first notification, {seconds:.1} s after the start.\n",
        regions.len()
    );
    for (region, Summary { credentials, nats, folder, .. }) in regions.iter().zip(summaries) {
        let (url, config) = (&credentials.url, folder.settings());
        let _ = writeln!(text, "  {:<10} API {url}, console {url}/console", region.as_str());
        let _ = writeln!(text, "  {:<10} NATS {nats}, settings {}", "", config.display());
    }
    let Credentials { app, key, secret, .. } = first.credentials;
    let of = |summary: &Summary<'_>| summary.credentials.url.clone();
    let user = shell(&format!("{key}:{secret}"));
    let opt_out = shell(&json!({ "marketing": false }).to_string());
    let _ = write!(
        text,
        "  {:<10} API {hub_url}, console {hub_url}/console: what all regions did\n  \
         {:<10} NATS {hub_nats}, settings {hub_config}\n\n  \
         Key        {key}\n  \
         Secret     {secret}\n  \
         App        {app}   the same in every region\n\n\
         Send one yourself, in the first region:\n\n  {curl}\n\n\
         Opt out in one region and see it in another:\n\n  \
         curl -u {user} -X PUT {last}/v1/recipients/{RECIPIENT}/preferences \\\n    \
         -H 'Content-Type: application/json' -d {opt_out}\n  \
         curl -u {user} {first}/v1/recipients/{RECIPIENT}/preferences\n\n\
         Look at a region, and follow what happens in all of them, in another terminal:\n\n  \
         peal doctor --config {first_config}\n  \
         peal tail --config {hub_config_quoted}\n\n\
         Look at the first region's streams with the stock nats command:\n\n  {command}\n\n\
         Ctrl-C stops everything; the data stays for the next `peal up` with the same regions.",
        "hub",
        "",
        hub_url = hub.url(),
        hub_nats = hub.settings().nats.urls.concat(),
        hub_config = hub.folder.settings().display(),
        first_config = shell(&first.folder.settings().to_string_lossy()),
        hub_config_quoted = shell(&hub.folder.settings().to_string_lossy()),
        curl = first.curl(),
        command = first.nats_command(),
        first = of(first),
        last = of(last),
    );
    text
}

/// A text as a shell reads it: in single quotes.
fn shell(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

impl Summary<'_> {
    /// A request that can be pasted into a shell.
    #[must_use]
    pub fn curl(&self) -> String {
        let Credentials { url, key, secret, .. } = self.credentials;
        let body = json!({
            "category": CATEGORY,
            "to": [{ "recipient": RECIPIENT }],
            "content": { "title": "Hello", "body": "My first notification" },
        });
        format!(
            "curl -u {} {} \\\n    -H 'Content-Type: application/json' \\\n    -d {}",
            shell(&format!("{key}:{secret}")),
            shell(&format!("{url}/v1/notifications")),
            shell(&body.to_string()),
        )
    }

    /// A command that shows the streams, with address and credentials.
    #[must_use]
    pub fn nats_command(&self) -> String {
        format!("nats --context {} stream ls", shell(&self.folder.nats_context().to_string_lossy()))
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let Credentials { url, app, key, secret } = self.credentials;
        let first = &self.notification["deliveries"][0];
        let said = |name: &str| first[name].as_str().unwrap_or("?").to_owned();
        format!(
            "\nPeal is running; a first notification was delivered {seconds:.1} s after the start \
             ({channel} by {provider}).\n\n  \
             Console    {url}/console\n  \
             API        {url}   described at {url}/docs\n  \
             Key        {key}\n  \
             Secret     {secret}\n  \
             App        {app}\n  \
             NATS       {nats}\n  \
             Folder     {folder}   settings in peal.toml, logs in logs/\n\n\
             Send one yourself:\n\n  {curl}\n\n\
             Watch what happens, in another terminal:\n\n  \
             peal tail{config}\n\n\
             Look at the streams with the stock nats command:\n\n  {command}\n\n\
             Ctrl-C stops everything; the data stays for the next `peal up`.",
            seconds = self.seconds,
            channel = said("channel"),
            provider = said("provider"),
            nats = self.nats,
            folder = self.folder.path().display(),
            curl = self.curl(),
            config = format_args!(" --config {}", shell(&self.folder.settings().to_string_lossy())),
            command = self.nats_command(),
        )
    }

    /// For programs: one object.
    #[must_use]
    pub fn json(&self) -> Value {
        let Credentials { url, app, key, secret } = self.credentials;
        json!({
            "api": url,
            "console": format!("{url}/console"),
            "docs": format!("{url}/docs"),
            "app": app,
            "key": key,
            "secret": secret,
            "dispatcher": self.dispatcher,
            "nats": { "url": self.nats, "context": self.folder.nats_context() },
            "dir": self.folder.path(),
            "config": self.folder.settings(),
            "notification": { "id": self.notification["id"], "status": self.notification["status"] },
            "seconds": self.seconds,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shell_reads_quoted_text_as_it_is() {
        let text = r#"it's "$HOME" `x` \ "#;
        let output =
            std::process::Command::new("sh").args(["-c", &format!("printf %s {}", shell(text))]).output();
        assert_eq!(String::from_utf8(output.unwrap().stdout).unwrap(), text);
    }
}
