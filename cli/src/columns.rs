//! Rows in columns, and words about numbers.

/// No column is padded beyond this: a single endless cell would push all others out of sight.
const WIDEST: usize = 200;

/// Rows under each other, every column as wide as it must be; lines end with their last letter.
pub fn aligned(indent: usize, rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|it| it.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0).min(WIDEST)).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = " ".repeat(indent);
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Things with commas between.
pub fn joined(things: &[impl ToString]) -> String {
    things.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// `1 pod`, `2 pods`, `2 entries`.
pub fn counted(count: usize, thing: &str) -> String {
    match (count, thing.strip_suffix('y')) {
        (1, _) => format!("1 {thing}"),
        (_, Some(stem)) => format!("{count} {stem}ies"),
        (_, None) => format!("{count} {thing}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_may_be_of_any_width() {
        let rows = [vec!["x".repeat(70_000), "end".into()], vec!["y".into(), "end".into()]];
        let text = aligned(0, &rows);
        assert!(text.lines().all(|line| line.ends_with("  end")));
        assert_eq!(text.lines().last().map(str::len), Some(WIDEST + "  end".len()));
    }
}
