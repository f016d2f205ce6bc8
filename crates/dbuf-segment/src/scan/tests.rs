//! Tests listing a directory whose files are renamed meanwhile. The daemon's tests read back what the store writes.

use super::*;

#[test]
fn a_listing_has_every_file_that_was_there_although_files_are_renamed_meanwhile() {
    let [one, two, three, four] = [1, 2, 3, 4].map(|sequence| Name::new(sequence, State::Sealed));
    let active = |name: Name| Name { state: State::Active, ..name };
    let settled = |lists: [&[Name]; 4]| {
        let mut lists = lists.into_iter();
        settled(|| Ok(lists.next().expect("no more than four").to_vec())).unwrap()
    };
    let quiet = [one, active(two)];
    assert_eq!(settled([&quiet; 4]), quiet);
    assert_eq!(settled([&[]; 4]), []);
    // Renamed in the third listing, it is in the fourth; and the other way round.
    assert_eq!(settled([&quiet, &quiet, &[one, active(three)], &[one, two, active(three)]]), [one, two]);
    assert_eq!(settled([&quiet, &quiet, &quiet, &[one, active(three)]]), quiet);
    // Missing in the first two listings, each time for another reason: it came, and was renamed.
    let without_two = [one, active(three)];
    assert_eq!(
        settled([&without_two, &without_two, &[one, two, three, four], &[one, two, three, four]]),
        [one, two, three]
    );
    // Retention removed it, and it does not come back.
    assert_eq!(settled([&[one, two], &[one, two], &[one, two], &[two]]), [two]);
}
