//! Files for `peal send --attach`: read, named by their last part, and with a type that goes by the ending.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use peal_common::attachment::{Attachment, Attachments, MAX_ATTACHED_BYTES};

use crate::output::UsageError;

/// The type of what has no ending, or another one (RFC 2046 §4.5.1).
const UNKNOWN: &str = "application/octet-stream";
/// Endings and their types, as IANA registers them. Whatever else a file is, mail programs go by its name as well.
const TYPES: [(&str, &str); 25] = [
    ("csv", "text/csv"),
    ("doc", "application/msword"),
    ("docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
    ("gif", "image/gif"),
    ("gz", "application/gzip"),
    ("htm", "text/html"),
    ("html", "text/html"),
    ("ics", "text/calendar"),
    ("jpeg", "image/jpeg"),
    ("jpg", "image/jpeg"),
    ("json", "application/json"),
    ("md", "text/markdown"),
    ("odt", "application/vnd.oasis.opendocument.text"),
    ("pdf", "application/pdf"),
    ("png", "image/png"),
    ("pptx", "application/vnd.openxmlformats-officedocument.presentationml.presentation"),
    ("svg", "image/svg+xml"),
    ("txt", "text/plain"),
    ("vcf", "text/vcard"),
    ("webp", "image/webp"),
    ("xls", "application/vnd.ms-excel"),
    ("xlsx", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
    ("xml", "application/xml"),
    ("yaml", "application/yaml"),
    ("zip", "application/zip"),
];

/// Reads the files.
///
/// # Errors
/// When one can't be read, and a [`UsageError`] when the gateway would refuse them.
pub fn read<'a>(paths: impl IntoIterator<Item = &'a Path>) -> anyhow::Result<Attachments> {
    let attachments = paths.into_iter().map(one).collect::<anyhow::Result<Attachments>>()?;
    match attachments.check().into_iter().next() {
        None => Ok(attachments),
        Some(error) => Err(UsageError(format!("--attach: {}: {}", error.field, error.detail)).into()),
    }
}

fn one(path: &Path) -> anyhow::Result<Attachment> {
    let shown = path.display();
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| UsageError(format!("--attach {shown}: the name has to be UTF-8")))?;
    let mut bytes = Vec::new();
    // One byte more than may be sent is enough to refuse it.
    let limit = MAX_ATTACHED_BYTES as u64 + 1;
    let file = File::open(path).with_context(|| format!("cannot open {shown}"))?;
    file.take(limit).read_to_end(&mut bytes).with_context(|| format!("cannot read {shown}"))?;
    Ok(Attachment {
        filename: name.to_owned(),
        content_type: content_type(path).to_owned(),
        content: STANDARD.encode(bytes),
    })
}

fn content_type(path: &Path) -> &'static str {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    let found = TYPES.iter().find(|(known, _)| known.eq_ignore_ascii_case(ending));
    found.map_or(UNKNOWN, |(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_goes_by_the_ending() {
        let of = |name: &str| content_type(Path::new(name));
        assert_eq!((of("a/invoice.PDF"), of("b.tar.gz")), ("application/pdf", "application/gzip"));
        for unknown in ["pdf", "a.", "a.pdf.sig", ".pdf", "mail.eml"] {
            assert_eq!(of(unknown), UNKNOWN, "{unknown}");
        }
        let all = TYPES.map(|(ending, kind)| Attachment {
            filename: format!("a.{ending}"),
            content_type: kind.to_owned(),
            content: "AAAA".to_owned(),
        });
        for one in all {
            assert_eq!(Attachments::from_iter([one]).check(), []);
        }
    }

    #[test]
    fn files_are_read_and_what_would_be_refused_is_not_sent() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let (invoice, data) = (path("청구서.pdf", b"%PDF"), path("data", &[0, 255]));
        let read_all = read([invoice.as_path(), data.as_path()]).unwrap();
        let seen: Vec<_> =
            read_all.iter().map(|one| (one.filename.as_str(), one.decode().unwrap())).collect();
        assert_eq!(seen, [("청구서.pdf", b"%PDF".to_vec()), ("data", vec![0, 255])]);

        let large = path("large.bin", &vec![0; MAX_ATTACHED_BYTES + 10]);
        let empty = path("empty.txt", b"");
        for (bad, why) in [(&large, "256 KiB"), (&empty, "attachments[0].content")] {
            let error = read([bad.as_path()]).unwrap_err();
            assert!(error.is::<UsageError>() && error.to_string().contains(why), "{error}");
        }
        let missing = folder.path().join("missing.pdf");
        for bad in [missing.as_path(), folder.path()] {
            assert!(!read([bad]).unwrap_err().is::<UsageError>());
        }
        assert!(read([Path::new("..")]).unwrap_err().is::<UsageError>());
    }
}
