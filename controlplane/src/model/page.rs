//! Lists in pieces.

/// Which piece of a list is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRequest {
    /// Most items, 1 to 1000.
    pub size: u32,
    /// The key of the last item of the page before; `None`: the first page. Opaque to callers.
    pub after: Option<String>,
}

/// A piece of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// In the list's order.
    pub items: Vec<T>,
    /// For the next request; `None`: this was the last page.
    pub next: Option<String>,
}
