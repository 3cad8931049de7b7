//! [`SqlStore`] is the whole [`super::Store`].

impl super::Store for super::SqlStore {}
