//! Many rows in one statement: `VALUES` of rows, in a few sizes only, so that prepared statements are found again.

/// Sizes of pieces, largest first.
const SIZES: [usize; 3] = [64, 8, 1];

/// Cuts what is to be written into pieces of few sizes.
pub(super) fn pieces<T>(mut items: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let size = SIZES.into_iter().find(|size| *size <= items.len())?;
        let (piece, rest) = items.split_at(size);
        items = rest;
        Some(piece)
    })
}

/// `($3, $4), ($5, $6)`: so many rows of so many columns, from a number on.
pub(super) fn rows(rows: usize, columns: usize, first: usize) -> String {
    let row = |row: usize| {
        let numbers = (0..columns).map(|column| format!("${}", first + row * columns + column));
        format!("({})", numbers.collect::<Vec<_>>().join(", "))
    };
    (0..rows).map(row).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_few_and_whole() {
        let items: Vec<u32> = (0..147).collect();
        let sizes: Vec<usize> = pieces(&items).map(<[u32]>::len).collect();
        assert_eq!(sizes, [64, 64, 8, 8, 1, 1, 1]);
        assert_eq!(pieces(&items).flatten().copied().collect::<Vec<_>>(), items);
        assert_eq!(pieces::<u32>(&[]).count(), 0);
    }

    #[test]
    fn rows_are_numbered() {
        assert_eq!(rows(2, 2, 3), "($3, $4), ($5, $6)");
        assert_eq!(rows(1, 1, 1), "($1)");
    }
}
