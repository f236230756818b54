//! In which order the resources of a group start.

/// The order in which things start that each have to come after some others (`after`, by index): as given, but for what
/// has to wait. The error is a circle: each of it comes after the next, and the last after the first.
pub fn order(after: &[Vec<usize>]) -> Result<Vec<usize>, Vec<usize>> {
    let mut placed = vec![false; after.len()];
    let mut order = Vec::new();
    while order.len() < after.len() {
        let ready = |index: &usize| !placed[*index] && after[*index].iter().all(|other| placed[*other]);
        match (0..after.len()).find(ready) {
            Some(index) => {
                placed[index] = true;
                order.push(index);
            }
            None => return Err(circle(after, &placed)),
        }
    }
    Ok(order)
}

/// One circle among what can't be placed: there, everything waits for something that waits itself.
fn circle(after: &[Vec<usize>], placed: &[bool]) -> Vec<usize> {
    let mut path: Vec<usize> = Vec::new();
    let mut at = placed.iter().position(|placed| !placed).expect("something is left");
    while !path.contains(&at) {
        path.push(at);
        at = *after[at].iter().find(|other| !placed[**other]).expect("it waits for something");
    }
    let begin = path.iter().position(|seen| *seen == at).expect("the path came back to it");
    path.split_off(begin)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_waits_for_nothing_keeps_its_place() {
        assert_eq!(order(&[vec![], vec![], vec![]]), Ok(vec![0, 1, 2]));
        assert_eq!(order(&[vec![2], vec![], vec![]]), Ok(vec![1, 2, 0]));
        assert_eq!(order(&[vec![1, 2], vec![2], vec![]]), Ok(vec![2, 1, 0]));
        assert_eq!(order(&[vec![0]]), Err(vec![0]));
        assert_eq!(order(&[vec![], vec![3], vec![1], vec![2]]), Err(vec![1, 3, 2]));
    }

    proptest! {
        #[test]
        fn an_order_keeps_every_word_and_a_circle_is_one(
            after in (1usize..8).prop_flat_map(|n| proptest::collection::vec(proptest::collection::vec(0..n, 0..3), n))
        ) {
            match order(&after) {
                Ok(order) => {
                    prop_assert_eq!(order.len(), after.len());
                    let place = |index: usize| order.iter().position(|placed| *placed == index).unwrap();
                    for (index, others) in after.iter().enumerate() {
                        prop_assert!(others.iter().all(|other| place(*other) < place(index)));
                    }
                }
                Err(circle) => {
                    for (position, index) in circle.iter().enumerate() {
                        prop_assert!(after[*index].contains(&circle[(position + 1) % circle.len()]));
                    }
                }
            }
        }
    }
}
