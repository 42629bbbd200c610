//! Compiled templates, kept for the next delivery.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::CompiledTemplate;

/// What a compiled template is kept under. A version never changes, so an entry never goes stale.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    app: String,
    id: String,
    version: u64,
}

struct Entry {
    template: Arc<CompiledTemplate>,
    last_used: u64,
}

struct Entries {
    by_key: HashMap<Key, Entry>,
    /// Counts uses; the order in which entries were used last.
    uses: u64,
}

/// A bounded cache of compiled templates that forgets the one that was unused for longest.
pub struct TemplateCache {
    capacity: usize,
    entries: Mutex<Entries>,
}

impl std::fmt::Debug for TemplateCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TemplateCache").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

impl TemplateCache {
    /// A cache of at most `capacity` templates (at least one).
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let entries = Entries { by_key: HashMap::new(), uses: 0 };
        TemplateCache { capacity: capacity.max(1), entries: Mutex::new(entries) }
    }

    /// The template `id` of `app` in `version`, compiled by `compile` where it is not at hand. Compiling happens
    /// outside the lock; two callers at the same moment may both compile.
    ///
    /// # Errors
    /// Whatever `compile` returns; errors are not kept.
    pub fn get_or_compile<E>(
        &self,
        app: &str,
        id: &str,
        version: u64,
        compile: impl FnOnce() -> Result<CompiledTemplate, E>,
    ) -> Result<Arc<CompiledTemplate>, E> {
        let key = Key { app: app.to_owned(), id: id.to_owned(), version };
        if let Some(template) = self.touch(&key) {
            return Ok(template);
        }
        let template = Arc::new(compile()?);
        self.insert(key, Arc::clone(&template));
        Ok(template)
    }

    /// How many templates are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().by_key.len()
    }

    /// Whether none is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    // An entry is whole before it is inserted, so a panic elsewhere leaves nothing half done.
    fn lock(&self) -> std::sync::MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn touch(&self, key: &Key) -> Option<Arc<CompiledTemplate>> {
        let mut entries = self.lock();
        entries.uses += 1;
        let uses = entries.uses;
        let entry = entries.by_key.get_mut(key)?;
        entry.last_used = uses;
        Some(Arc::clone(&entry.template))
    }

    fn insert(&self, key: Key, template: Arc<CompiledTemplate>) {
        let mut entries = self.lock();
        if entries.by_key.len() >= self.capacity && !entries.by_key.contains_key(&key) {
            let oldest =
                entries.by_key.iter().min_by_key(|(_, entry)| entry.last_used).map(|(key, _)| key.clone());
            if let Some(oldest) = oldest {
                entries.by_key.remove(&oldest);
            }
        }
        entries.uses += 1;
        let last_used = entries.uses;
        entries.by_key.insert(key, Entry { template, last_used });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::Template;

    fn compile() -> Result<CompiledTemplate, Vec<crate::problem::FieldError>> {
        CompiledTemplate::new(&Template::default())
    }

    #[test]
    fn a_template_is_compiled_once_per_app_id_and_version() {
        let cache = TemplateCache::new(8);
        let first = cache.get_or_compile("shop", "t", 1, compile).unwrap();
        let again =
            cache.get_or_compile("shop", "t", 1, || -> Result<_, ()> { panic!("compiled twice") }).unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        for (app, id, version) in [("shop", "t", 2), ("shop", "u", 1), ("other", "t", 1)] {
            let other = cache.get_or_compile(app, id, version, compile).unwrap();
            assert!(!Arc::ptr_eq(&first, &other));
        }
        assert_eq!(cache.len(), 4);
    }

    #[test]
    fn the_one_unused_for_longest_goes_first() {
        let cache = TemplateCache::new(2);
        cache.get_or_compile("a", "one", 1, compile).unwrap();
        cache.get_or_compile("a", "two", 1, compile).unwrap();
        cache.get_or_compile("a", "one", 1, compile).unwrap();
        cache.get_or_compile("a", "three", 1, compile).unwrap();
        assert_eq!(cache.len(), 2);
        assert!(cache.get_or_compile("a", "one", 1, || Err(())).is_ok());
        assert!(cache.get_or_compile("a", "two", 1, || Err(())).is_err());
    }

    #[test]
    fn an_error_is_not_kept() {
        let cache = TemplateCache::new(2);
        assert!(cache.get_or_compile("a", "one", 1, || Err(())).is_err());
        assert!(cache.is_empty());
    }

    #[test]
    fn what_dispatchers_share_can_be_shared() {
        fn shared<T: Send + Sync>() {}
        shared::<TemplateCache>();
        shared::<CompiledTemplate>();
    }
}
