//! A store in memory for unit tests, which can fail at any call, before or after it took effect.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;

use crate::model::{
    DataKey, KeyId, Page, PageRequest, Sealed, Secret, SecretId, SecretRow, Time, Workspace, WorkspaceId,
};
use crate::store::{Audit, Change, DataKeys, Done, NewSecret, Result, Secrets, StoreError, Workspaces};

#[derive(Debug, Default)]
pub(crate) struct Tables {
    pub(crate) workspaces: BTreeMap<String, Workspace>,
    pub(crate) keys: BTreeMap<String, DataKey>,
    pub(crate) secrets: BTreeMap<String, SecretRow>,
    pub(crate) audit: Vec<(String, String, String, String)>,
}

/// Nothing is kept but in memory.
#[derive(Debug)]
pub(crate) struct Memory {
    tables: Mutex<Tables>,
    /// Calls until one fails; negative: none does.
    calls: AtomicI64,
    after: bool,
}

impl Default for Memory {
    fn default() -> Self {
        Self { tables: Mutex::default(), calls: AtomicI64::new(-1), after: false }
    }
}

impl Memory {
    /// The same content, in a store whose call number `call` (from 0) fails: `after` it took effect, or before.
    pub(crate) fn failing(self, call: i64, after: bool) -> Self {
        Self { tables: self.tables, calls: AtomicI64::new(call), after }
    }

    /// From now on no call fails.
    pub(crate) fn mend(&self) {
        self.calls.store(-1, Ordering::SeqCst);
    }

    pub(crate) fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap()
    }

    pub(crate) fn workspace(&self, id: &str) -> WorkspaceId {
        let workspace_id = WorkspaceId::from(id);
        let workspace =
            Workspace { workspace_id: workspace_id.clone(), name: id.to_owned(), create_time: Time(0) };
        self.tables().workspaces.insert(id.to_owned(), workspace);
        workspace_id
    }

    fn call<T>(&self, work: impl FnOnce(&mut Tables) -> Result<T>) -> Result<T> {
        let failing = self.calls.fetch_sub(1, Ordering::SeqCst) == 0;
        let away = || StoreError::Unavailable(sqlx::Error::PoolClosed);
        if failing && !self.after {
            return Err(away());
        }
        let done = work(&mut self.tables());
        if failing { Err(away()) } else { done }
    }
}

#[async_trait]
impl Workspaces for Memory {
    async fn create_workspace(&self, _: &Change<'_>, _: &str) -> Result<Done<Workspace>> {
        Err(StoreError::Exists("workspace"))
    }

    async fn workspace(&self, id: &str) -> Result<Option<Workspace>> {
        self.call(|tables| Ok(tables.workspaces.get(id).cloned()))
    }

    async fn workspaces(&self, page: &PageRequest) -> Result<Page<Workspace>> {
        self.call(|tables| {
            // Small pages: that lists are read to their end shows.
            let after = page.after.clone().unwrap_or_default();
            let rest: Vec<_> =
                tables.workspaces.values().filter(|w| w.workspace_id.as_str() > after.as_str()).collect();
            let items: Vec<Workspace> = rest.iter().take(2).map(|w| (*w).clone()).collect();
            let next = (rest.len() > 2).then(|| items[1].workspace_id.to_string());
            Ok(Page { items, next })
        })
    }
}

#[async_trait]
impl DataKeys for Memory {
    async fn current_data_key(&self, workspace: &WorkspaceId) -> Result<Option<DataKey>> {
        self.call(|tables| {
            Ok(tables.keys.values().find(|key| key.current && key.workspace_id == *workspace).cloned())
        })
    }

    async fn data_key(&self, key: &KeyId) -> Result<Option<DataKey>> {
        self.call(|tables| Ok(tables.keys.get(key.as_str()).cloned()))
    }

    async fn set_current_data_key(&self, key: &DataKey, instead_of: Option<&KeyId>) -> Result<bool> {
        self.call(|tables| {
            let mut current =
                tables.keys.values_mut().filter(|k| k.current && k.workspace_id == key.workspace_id);
            let current = current.next();
            if current.as_ref().map(|k| &k.key_id) != instead_of {
                return Ok(false);
            }
            if let Some(current) = current {
                current.current = false;
            }
            tables.keys.insert(key.key_id.to_string(), key.clone());
            Ok(true)
        })
    }

    async fn data_keys_not_wrapped_by(&self, kek_id: &str, limit: u32) -> Result<Vec<DataKey>> {
        self.call(|tables| {
            let keys = tables.keys.values().filter(|key| key.kek_id != kek_id);
            Ok(keys.take(usize::try_from(limit).unwrap()).cloned().collect())
        })
    }

    async fn rewrap_data_key(&self, key: &KeyId, from: &str, to: &str, wrapped: &[u8]) -> Result<bool> {
        self.call(|tables| match tables.keys.get_mut(key.as_str()) {
            Some(key) if key.kek_id == from => {
                to.clone_into(&mut key.kek_id);
                wrapped.clone_into(&mut key.wrapped);
                Ok(true)
            }
            _ => Ok(false),
        })
    }

    async fn delete_unused_data_keys(&self) -> Result<u64> {
        self.call(|tables| {
            let before = tables.keys.len();
            let secrets = &tables.secrets;
            tables
                .keys
                .retain(|_, key| key.current || secrets.values().any(|row| row.sealed.key_id == key.key_id));
            Ok((before - tables.keys.len()) as u64)
        })
    }

    async fn secrets_under_old_keys(&self, limit: u32) -> Result<Vec<SecretRow>> {
        self.call(|tables| {
            let keys = &tables.keys;
            let old = tables
                .secrets
                .values()
                .filter(|row| keys.get(row.sealed.key_id.as_str()).is_none_or(|k| !k.current));
            Ok(old.take(usize::try_from(limit).unwrap()).cloned().collect())
        })
    }

    async fn reseal_secret(&self, row: &SecretRow, sealed: &Sealed) -> Result<bool> {
        self.call(|tables| match tables.secrets.get_mut(row.secret.secret_id.as_str()) {
            Some(now) if now.sealed == row.sealed && now.secret.version == row.secret.version => {
                now.sealed = sealed.clone();
                Ok(true)
            }
            _ => Ok(false),
        })
    }

    async fn has_data_keys(&self) -> Result<bool> {
        self.call(|tables| Ok(!tables.keys.is_empty()))
    }
}

#[async_trait]
impl Secrets for Memory {
    async fn create_secret(&self, _: &Change<'_>, new: &NewSecret) -> Result<Done<Secret>> {
        self.call(|tables| {
            if !tables.keys.contains_key(new.sealed.key_id.as_str()) {
                return Err(StoreError::Conflict("its data key is gone".to_owned()));
            }
            let (secret, sealed) = (new.secret.clone(), new.sealed.clone());
            let row = SecretRow { newest: secret.version, secret: secret.clone(), sealed };
            tables.secrets.insert(secret.secret_id.to_string(), row);
            Ok(Done::Now(secret))
        })
    }

    async fn update_secret(&self, _: &Change<'_>, read: &Secret, sealed: &Sealed) -> Result<Done<Secret>> {
        self.call(|tables| {
            if !tables.keys.contains_key(sealed.key_id.as_str()) {
                return Err(StoreError::Conflict("its data key is gone".to_owned()));
            }
            let row =
                tables.secrets.get_mut(read.secret_id.as_str()).ok_or(StoreError::NotFound("secret"))?;
            if row.secret.version != read.version {
                return Err(StoreError::Conflict("the secret has changed".to_owned()));
            }
            row.secret.version += 1;
            row.newest = row.secret.version;
            row.sealed = sealed.clone();
            Ok(Done::Now(row.secret.clone()))
        })
    }

    async fn delete_secret(&self, _: &Change<'_>, secret: &SecretId) -> Result<Done<()>> {
        self.call(|tables| {
            tables
                .secrets
                .remove(secret.as_str())
                .map(|_| Done::Now(()))
                .ok_or(StoreError::NotFound("secret"))
        })
    }

    async fn secret(&self, workspace: &WorkspaceId, id: &SecretId) -> Result<Option<SecretRow>> {
        self.call(|tables| {
            Ok(tables.secrets.get(id.as_str()).filter(|row| row.secret.workspace_id == *workspace).cloned())
        })
    }

    async fn secrets_named(&self, workspace: &WorkspaceId, name: &str) -> Result<Vec<SecretRow>> {
        self.call(|tables| {
            let of = |row: &&SecretRow| row.secret.workspace_id == *workspace && row.secret.name == name;
            let mut rows: Vec<_> = tables.secrets.values().filter(of).cloned().collect();
            rows.sort_by(|a, b| a.secret.registry.cmp(&b.secret.registry));
            Ok(rows)
        })
    }

    async fn secret_for_registry(
        &self,
        workspace: &WorkspaceId,
        registry: &str,
    ) -> Result<Option<SecretRow>> {
        self.call(|tables| {
            let of =
                |row: &&SecretRow| row.secret.workspace_id == *workspace && row.secret.registry == registry;
            Ok(tables.secrets.values().find(of).cloned())
        })
    }

    async fn secrets(&self, workspace: &WorkspaceId, _: &PageRequest) -> Result<Page<Secret>> {
        self.call(|tables| {
            let of = tables.secrets.values().filter(|row| row.secret.workspace_id == *workspace);
            Ok(Page { items: of.map(|row| row.secret.clone()).collect(), next: None })
        })
    }
}

#[async_trait]
impl Audit for Memory {
    async fn note(&self, change: &Change<'_>, result: &str) -> Result<()> {
        self.call(|tables| {
            let (actor, action) = (change.actor.to_owned(), change.action.to_owned());
            tables.audit.push((actor, action, change.target.to_owned(), result.to_owned()));
            Ok(())
        })
    }

    async fn audited(
        &self,
        _: Option<&WorkspaceId>,
        _: u32,
    ) -> Result<Vec<(Time, String, String, String, String)>> {
        self.call(|tables| {
            let rows = tables.audit.iter().rev().cloned();
            Ok(rows.map(|(actor, action, target, result)| (Time(0), actor, action, target, result)).collect())
        })
    }
}
