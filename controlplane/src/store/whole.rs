//! `SqlStore` is the whole `Store`.

impl super::Store for super::SqlStore {}
