//! Locales: how a recipient's `ko-KR` finds the texts of `ko`.

/// Longest locale name, in bytes; the longest tag that RFC 5646 section 4.4.1 asks implementations to hold.
pub const MAX_LOCALE_BYTES: usize = 35;

/// The form in which locales are compared: lower case, `-` between the parts (`ko_KR` → `ko-kr`).
#[must_use]
pub fn normalize(locale: &str) -> String {
    locale.trim().replace('_', "-").to_ascii_lowercase()
}

/// Whether `locale` looks like a language tag: a language of two to eight letters, then parts of one to eight
/// letters or digits.
#[must_use]
pub fn is_valid(locale: &str) -> bool {
    if locale.len() > MAX_LOCALE_BYTES {
        return false;
    }
    let mut parts = locale.split(['-', '_']);
    let language = parts.next().unwrap_or_default();
    (2..=8).contains(&language.len())
        && language.bytes().all(|byte| byte.is_ascii_alphabetic())
        && parts.all(|part| (1..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphanumeric()))
}

/// The locales to look for, the most exact first, each in its normal form: `zh-Hant-TW` gives `zh-hant-tw`,
/// `zh-hant`, `zh` (the lookup of RFC 4647 section 3.4). Empty where the recipient has none.
#[must_use]
pub fn chain(locale: Option<&str>) -> Vec<String> {
    let mut chain = Vec::new();
    let Some(locale) = locale else { return chain };
    let mut wanted = normalize(locale);
    while !wanted.is_empty() && chain.len() < MAX_LOCALE_BYTES {
        let shorter = wanted.rfind('-').map(|end| wanted[..end].to_owned());
        chain.push(wanted);
        match shorter {
            Some(next) => wanted = next,
            None => break,
        }
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locale_falls_back_part_by_part() {
        assert_eq!(chain(Some("zh_Hant-TW")), ["zh-hant-tw", "zh-hant", "zh"]);
        assert_eq!(chain(Some("ko")), ["ko"]);
        assert!(chain(None).is_empty());
        assert!(chain(Some("")).is_empty());
    }

    #[test]
    fn only_language_tags_are_locales() {
        for good in ["ko", "ko-KR", "zh-Hant-TW", "en_US", "de-CH-1996"] {
            assert!(is_valid(good), "{good}");
        }
        for bad in ["", "k", "ko-", "-KR", "ko KR", "한국", "12", "en-aaaaaaaaa", &"aa-".repeat(20)] {
            assert!(!is_valid(bad), "{bad}");
        }
    }
}
