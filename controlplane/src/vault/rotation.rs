//! New keys, while servers run.
//!
//! A rotation is a row of steps, each of which is whole or nothing: one replacement of the key file, or one transaction. What is to be
//! done next is read from file and database every time, so that a rotation that died is gone on with by starting it again, and two at
//! once do no harm.
//!
//! **KEK** ([`KekRotation`]): the new key is put into the file, as next; it is made active; each data key is rewrapped; when no data key
//! needs another one, the old ones leave the file. Changes of the file happen under its exclusive lock, and servers wrap new data keys under
//! the shared one, by what is active then: between the look for keys that need the old KEK and its end, nobody makes one.
//!
//! That holds for processes that share the file. Where hosts have copies of it: `rotate --prepare`, copy the file everywhere; `rotate
//! --keep-old`, copy it again; `rotate`, copy it again. A backup of the database needs the key file of its time.
//!
//! **Data keys** ([`DataKeyRotation`]): each workspace gets a new current key, then every secret is sealed anew, a few at a time; keys that
//! nothing needs are deleted. Values that come meanwhile are sealed with the new key at once.

use std::collections::VecDeque;

use serde::Serialize;

use super::envelope::{self, Key, KeyBinding};
use super::{Vault, VaultError, VaultStore};
use crate::model::{DataKey, KeyId, PageRequest, Sealed, SecretId, SecretRow, WorkspaceId};
use crate::store::Change;

/// Rows that are read at once: some hundred KiB.
const BATCH: u32 = 64;
/// Workspaces that are listed at once.
const PAGE: u32 = 500;

/// How far a rotation of the KEK goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum KekMode {
    /// To the end.
    #[default]
    Whole,
    /// The new key is put into the file, and opens; nothing is wrapped by it yet.
    Prepare,
    /// Everything is rewrapped, and the old keys stay in the file.
    KeepOld,
}

/// What a step of a rotation of the KEK has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KekStep {
    /// A new key is in the file.
    Prepared(String),
    /// It is active.
    Promoted(String),
    /// A data key is wrapped by it.
    Rewrapped(KeyId),
    /// Old keys are gone from the file.
    Dropped(Vec<String>),
}

/// What a rotation of the KEK has done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct KekReport {
    /// The active key.
    pub kek_id: String,
    /// Data keys that were rewrapped.
    pub rewrapped: u64,
    /// Keys that were taken out of the file.
    pub dropped: Vec<String>,
    /// It went on with one that had not ended.
    pub resumed: bool,
}

/// What a step of a rotation of data keys has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataStep {
    /// A workspace has a new current key.
    Made(WorkspaceId, KeyId),
    /// A secret is sealed anew.
    Resealed(SecretId),
    /// Keys that nothing needed are deleted.
    Deleted(u64),
}

/// What a rotation of data keys has done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DataReport {
    /// New current keys.
    pub made: u64,
    /// Secrets that were sealed anew.
    pub resealed: u64,
    /// Secrets that do not open and stay as they are.
    pub unopened: Vec<String>,
    /// Keys that were deleted.
    pub deleted: u64,
}

/// A rotation of the KEK, step by step.
#[derive(Debug)]
pub struct KekRotation<S: ?Sized> {
    vault: Vault<S>,
    mode: KekMode,
    phase: KekPhase,
    pending: VecDeque<DataKey>,
    /// Data keys that do not open, and why the first one does not.
    stuck: Stuck<KeyId>,
    resumed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KekPhase {
    Begin,
    Promote,
    Rewrap,
    Drop,
    End,
}

/// What was passed over, and the error of the first.
#[derive(Debug)]
struct Stuck<T> {
    which: Vec<T>,
    first: Option<VaultError>,
}

impl<T: PartialEq> Stuck<T> {
    const fn none() -> Self {
        Self { which: Vec::new(), first: None }
    }

    fn add(&mut self, which: T, error: VaultError) {
        self.which.push(which);
        self.first.get_or_insert(error);
    }

    /// A limit that reaches beyond them: they may be the first ones of every list.
    fn beyond(&self) -> u32 {
        BATCH.saturating_add(u32::try_from(self.which.len()).unwrap_or(u32::MAX))
    }
}

impl<S: VaultStore + ?Sized> KekRotation<S> {
    /// Begins one, or goes on with one that died.
    #[must_use]
    pub fn new(vault: &Vault<S>, mode: KekMode) -> Self {
        let vault = vault.clone();
        let (phase, pending, stuck) = (KekPhase::Begin, VecDeque::new(), Stuck::none());
        Self { vault, mode, phase, pending, stuck, resumed: false }
    }

    /// Does the next step. `None`: it is done. Dropping it between or within steps is like dying.
    ///
    /// # Errors
    /// See [`VaultError`]. Of data keys that do not open: after all others are rewrapped, and the old KEKs stay.
    pub async fn step(&mut self) -> Result<Option<KekStep>, VaultError> {
        loop {
            let done = match self.phase {
                KekPhase::Begin => self.begin().await?,
                KekPhase::Promote => self.promote().await?,
                KekPhase::Rewrap => self.rewrap().await?,
                KekPhase::Drop => self.drop_old().await?,
                KekPhase::End => return Ok(None),
            };
            if done.is_some() {
                return Ok(done);
            }
        }
    }

    /// A new key, unless there is one, or one has yet to be gone on with.
    async fn begin(&mut self) -> Result<Option<KekStep>, VaultError> {
        let held = self.vault.keyring.hold(true).await?;
        let keks = held.keks();
        if self.mode == KekMode::Prepare {
            self.phase = KekPhase::End;
            self.resumed = keks.next().is_some();
        } else if keks.next().is_some() {
            self.phase = KekPhase::Promote;
            self.resumed = true;
        } else if keks.old().next().is_some() || !self.all_wrapped_by(&keks.active().kek_id).await? {
            self.phase = KekPhase::Rewrap;
            self.resumed = true;
        } else {
            self.phase = KekPhase::Promote;
        }
        if self.resumed {
            return Ok(None);
        }
        let with_next = keks.with_next(Key::generate());
        let kek_id = with_next.next().map(|kek| kek.kek_id.clone()).unwrap_or_default();
        held.replace(with_next).await?;
        Ok(Some(KekStep::Prepared(kek_id)))
    }

    async fn promote(&mut self) -> Result<Option<KekStep>, VaultError> {
        let held = self.vault.keyring.hold(true).await?;
        let keks = held.keks();
        self.phase = KekPhase::Rewrap;
        // Somebody else may have done it.
        let Some(next) = keks.next() else { return Ok(None) };
        held.replace(keks.promoted()).await?;
        Ok(Some(KekStep::Promoted(next.kek_id.clone())))
    }

    async fn rewrap(&mut self) -> Result<Option<KekStep>, VaultError> {
        let Some(row) = self.pending.pop_front() else { return self.list().await.map(|()| None) };
        // Locked against another rotation: it could make another key active, and drop this one, while we wrap by it.
        let held = self.vault.keyring.hold(false).await?;
        let active = held.keks().active();
        // It may have been rewrapped since it was listed, and the KEK of then may be gone.
        let row = match self.vault.store.data_key(&row.key_id).await? {
            Some(row) if row.kek_id != active.kek_id => row,
            _ => return Ok(None),
        };
        let key = match self.vault.unwrap(&row).await {
            Ok(key) => key,
            Err(error @ (VaultError::Tampered(_) | VaultError::NoKek(_))) => {
                self.stuck.add(row.key_id, error);
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let binding = KeyBinding { workspace: &row.workspace_id, key: &row.key_id, kek_id: &active.kek_id };
        let wrapped = envelope::wrap(&active.key, &binding, &key);
        let done =
            self.vault.store.rewrap_data_key(&row.key_id, &row.kek_id, &active.kek_id, &wrapped).await?;
        Ok(done.then_some(KekStep::Rewrapped(row.key_id)))
    }

    /// Reads which data keys are still to be rewrapped; if none is, goes on.
    async fn list(&mut self) -> Result<(), VaultError> {
        let keks = self.vault.keyring.keks();
        let limit = self.stuck.beyond();
        let mut rows = self.vault.store.data_keys_not_wrapped_by(&keks.active().kek_id, limit).await?;
        rows.retain(|row| !self.stuck.which.contains(&row.key_id));
        if rows.is_empty() {
            match self.stuck.first.take() {
                Some(error) => return Err(error),
                None if self.mode == KekMode::KeepOld => self.phase = KekPhase::End,
                None => self.phase = KekPhase::Drop,
            }
        }
        self.pending = rows.into();
        Ok(())
    }

    /// Under the lock nobody makes a data key: what needs an old KEK is in the database already, or never will be.
    async fn drop_old(&mut self) -> Result<Option<KekStep>, VaultError> {
        let held = self.vault.keyring.hold(true).await?;
        let keks = held.keks();
        let old: Vec<String> = keks.old().map(str::to_owned).collect();
        if old.is_empty() {
            self.phase = KekPhase::End;
            return Ok(None);
        }
        // What the next key wraps (a rotation on another host) does not need the old ones either, but is no reason to hurry.
        if !self.all_wrapped_by(&keks.active().kek_id).await? {
            self.phase = KekPhase::Rewrap;
            return Ok(None);
        }
        held.replace(keks.without_old()).await?;
        self.phase = KekPhase::End;
        Ok(Some(KekStep::Dropped(old)))
    }

    async fn all_wrapped_by(&self, kek_id: &str) -> Result<bool, VaultError> {
        Ok(self.vault.store.data_keys_not_wrapped_by(kek_id, 1).await?.is_empty())
    }
}

/// A rotation of data keys, step by step.
#[derive(Debug)]
pub struct DataKeyRotation<S: ?Sized> {
    vault: Vault<S>,
    phase: DataPhase,
    /// Workspaces that get a new key.
    workspaces: VecDeque<WorkspaceId>,
    pending: VecDeque<SecretRow>,
    stuck: Stuck<SecretId>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum DataPhase {
    /// Workspaces are still to be listed, from here on.
    List(Option<String>),
    Make,
    Sweep,
    Delete,
    End,
}

/// Which workspaces get new data keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataScope {
    /// All that have one.
    All,
    /// One.
    Workspace(WorkspaceId),
    /// None: only what was left behind is sealed anew.
    Sweep,
}

impl<S: VaultStore + ?Sized> DataKeyRotation<S> {
    /// Begins one. One that died is gone on with by [`DataScope::Sweep`], or begun again.
    #[must_use]
    pub fn new(vault: &Vault<S>, scope: DataScope) -> Self {
        let (phase, workspaces) = match scope {
            DataScope::All => (DataPhase::List(None), VecDeque::new()),
            DataScope::Workspace(workspace) => (DataPhase::Make, VecDeque::from([workspace])),
            DataScope::Sweep => (DataPhase::Sweep, VecDeque::new()),
        };
        Self { vault: vault.clone(), phase, workspaces, pending: VecDeque::new(), stuck: Stuck::none() }
    }

    /// Does the next step. `None`: it is done. Dropping it between or within steps is like dying.
    ///
    /// # Errors
    /// See [`VaultError`]. Secrets that do not open are no error here: they are passed over.
    pub async fn step(&mut self) -> Result<Option<DataStep>, VaultError> {
        loop {
            let done = match self.phase.clone() {
                DataPhase::List(after) => self.list(after).await?,
                DataPhase::Make => self.make().await?,
                DataPhase::Sweep => self.reseal().await?,
                DataPhase::Delete => self.delete().await?,
                DataPhase::End => return Ok(None),
            };
            if done.is_some() {
                return Ok(done);
            }
        }
    }

    async fn list(&mut self, after: Option<String>) -> Result<Option<DataStep>, VaultError> {
        let page = self.vault.store.workspaces(&PageRequest { size: PAGE, after }).await?;
        self.workspaces.extend(page.items.into_iter().map(|workspace| workspace.workspace_id));
        self.phase = page.next.map_or(DataPhase::Make, |next| DataPhase::List(Some(next)));
        Ok(None)
    }

    async fn make(&mut self) -> Result<Option<DataStep>, VaultError> {
        let Some(workspace) = self.workspaces.pop_front() else {
            self.phase = DataPhase::Sweep;
            return Ok(None);
        };
        // A workspace without a key gets one when it needs it. If somebody else was faster, it has a new one as well.
        let Some(current) = self.vault.store.current_data_key(&workspace).await? else { return Ok(None) };
        let made = self.vault.make_data_key(&workspace, Some(&current.key_id)).await?;
        Ok(made.map(|key_id| DataStep::Made(workspace, key_id)))
    }

    async fn reseal(&mut self) -> Result<Option<DataStep>, VaultError> {
        let Some(row) = self.pending.pop_front() else {
            let mut rows = self.vault.store.secrets_under_old_keys(self.stuck.beyond()).await?;
            rows.retain(|row| !self.stuck.which.contains(&row.secret.secret_id));
            if rows.is_empty() {
                self.phase = DataPhase::Delete;
            }
            self.pending = rows.into();
            return Ok(None);
        };
        match self.vault.reseal(&row).await {
            // It got a new value meanwhile, with the key that was current then: the next list tells.
            Ok(done) => Ok(done.then_some(DataStep::Resealed(row.secret.secret_id))),
            Err(error @ (VaultError::Tampered(_) | VaultError::NoKek(_))) => {
                tracing::warn!(%error, workspace = %row.secret.workspace_id, "a secret cannot be sealed anew");
                self.stuck.add(row.secret.secret_id, error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn delete(&mut self) -> Result<Option<DataStep>, VaultError> {
        self.phase = DataPhase::End;
        let deleted = self.vault.store.delete_unused_data_keys().await?;
        Ok((deleted > 0).then_some(DataStep::Deleted(deleted)))
    }
}

impl<S: VaultStore + ?Sized> Vault<S> {
    /// Seals a secret anew with its workspace's current key, same value and version. `false`: it has changed meanwhile.
    async fn reseal(&self, row: &SecretRow) -> Result<bool, VaultError> {
        use secrecy::ExposeSecret as _;
        let value = self.open(row).await?;
        let sealed: Sealed = self.seal(&row.secret, value.expose_secret()).await?;
        Ok(self.store.reseal_secret(row, &sealed).await?)
    }

    /// Rotates the KEK, or goes on with a rotation that died; noted in the audit. Servers go on meanwhile.
    ///
    /// # Errors
    /// See [`KekRotation::step`].
    pub async fn rotate_kek(&self, mode: KekMode) -> Result<KekReport, VaultError> {
        let mut rotation = KekRotation::new(self, mode);
        let mut report = KekReport::default();
        let result = loop {
            match rotation.step().await {
                Ok(None) => break Ok(()),
                Ok(Some(KekStep::Prepared(_) | KekStep::Promoted(_))) => {}
                Ok(Some(KekStep::Rewrapped(_))) => report.rewrapped += 1,
                Ok(Some(KekStep::Dropped(old))) => report.dropped.extend(old),
                Err(error) => break Err(error),
            }
        };
        let keks = self.keyring.keks();
        let about =
            if mode == KekMode::Prepare { keks.next() } else { None }.unwrap_or_else(|| keks.active());
        report.kek_id = about.kek_id.clone();
        report.resumed = rotation.resumed;
        self.note("RotateKek", &report.kek_id, &result).await?;
        result.map(|()| report)
    }

    /// Gives workspaces new data keys and seals what is under old ones anew; noted in the audit. Servers go on meanwhile.
    ///
    /// # Errors
    /// See [`DataKeyRotation::step`].
    pub async fn rotate_data_keys(&self, scope: DataScope) -> Result<DataReport, VaultError> {
        let target = match &scope {
            DataScope::All => "all workspaces".to_owned(),
            DataScope::Workspace(workspace) => workspace.to_string(),
            DataScope::Sweep => "secrets under old keys".to_owned(),
        };
        let mut rotation = DataKeyRotation::new(self, scope);
        let mut report = DataReport::default();
        let result = loop {
            match rotation.step().await {
                Ok(None) => break Ok(()),
                Ok(Some(DataStep::Made(..))) => report.made += 1,
                Ok(Some(DataStep::Resealed(_))) => report.resealed += 1,
                Ok(Some(DataStep::Deleted(deleted))) => report.deleted += deleted,
                Err(error) => break Err(error),
            }
        };
        report.unopened = rotation.stuck.which.iter().map(ToString::to_string).collect();
        self.note("RotateDataKeys", &target, &result).await?;
        result.map(|()| report)
    }

    async fn note(
        &self,
        action: &'static str,
        target: &str,
        result: &Result<(), VaultError>,
    ) -> Result<(), VaultError> {
        let result = result.as_ref().map_or_else(ToString::to_string, |()| "ok".to_owned());
        let change = Change { actor: "operator", workspace: None, action, target, key: None };
        Ok(self.store.note(&change, &result).await?)
    }
}
