//! Lists in pieces, by a key that rises.

use sqlx::any::AnyRow;

use super::Result;
use crate::model::{Page, PageRequest};

/// Most items of a page.
const MAX_PAGE: u32 = 1000;

/// What to bind to `WHERE key > $…`: no key is empty.
pub(super) fn after(request: &PageRequest) -> &str {
    request.after.as_deref().unwrap_or_default()
}

/// What to bind to `LIMIT $…`: one more than asked for, which tells whether there is another page.
pub(super) fn limit(request: &PageRequest) -> i64 {
    i64::from(request.size.clamp(1, MAX_PAGE)) + 1
}

/// The page that rows make.
pub(super) fn page<T>(
    request: &PageRequest,
    rows: &[AnyRow],
    read: impl Fn(&AnyRow) -> Result<T>,
    key: impl Fn(&T) -> String,
) -> Result<Page<T>> {
    let items = rows.iter().map(read).collect::<Result<Vec<T>>>()?;
    Ok(cut(request, items, key))
}

/// The page that items make, of which one more than asked for was read.
pub(super) fn cut<T>(request: &PageRequest, mut items: Vec<T>, key: impl Fn(&T) -> String) -> Page<T> {
    let size = usize::try_from(limit(request) - 1).unwrap_or(usize::MAX);
    let more = items.len() > size;
    items.truncate(size);
    let next = if more { items.last().map(key) } else { None };
    Page { items, next }
}
