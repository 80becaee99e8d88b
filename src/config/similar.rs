//! "Did you mean ...?": the name that somebody may have wanted to type. Touches nothing.

/// Names longer than this are not compared: the work grows with the product of both lengths.
const LENGTH_MAX: usize = 64;

/// The candidate nearest to `name`, if a third of its letters or less would have to change. Case does not count.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase();
    let (distance, best) =
        candidates.into_iter().map(|candidate| (distance(&name, &candidate.to_lowercase()), candidate)).min()?;
    (distance <= (best.len() / 3).max(1)).then_some(best)
}

/// Letters to insert, delete, replace, or swap with a neighbour (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len() > LENGTH_MAX || b.len() > LENGTH_MAX {
        return usize::MAX;
    }
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        rows[i][0] = i;
        for j in 1..=b.len() {
            let replace = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            rows[i][j] = replace.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                rows[i][j] = rows[i][j].min(rows[i - 2][j - 2] + 1);
            }
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_finds_its_name_and_another_word_finds_none() {
        let names = ["port", "pcp_port", "listen_addresses", "listen_backlog"];
        assert_eq!(nearest("prot", names), Some("port"));
        assert_eq!(nearest("listen_address", names), Some("listen_addresses"));
        assert_eq!(nearest("PCP_PORT", names), Some("pcp_port"));
        assert_eq!(nearest("banana", names), None);
        assert_eq!(nearest("", names), None);
        assert_eq!(nearest(&"x".repeat(10_000), names), None);
    }
}
