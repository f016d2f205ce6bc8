use super::fixture::*;
use dbufd::pipeline::record::{Cause, Event, Loss};
use std::os::unix::fs::FileExt as _;

fn three_files() -> Fixture {
    let mut fixture = Fixture::new();
    fixture.texts("one", 0, &["a", "b", "c"]).rotate().texts("two", 10, &["d", "e"]).rotate();
    fixture.texts("one", 20, &["f", "g"]);
    fixture
}

#[test]
fn events_of_all_files_are_printed_oldest_first() {
    let fixture = three_files();
    assert_eq!(fixture.run("cat -o cat").fine(), "a\nb\nc\nd\ne\nf\ng\n");
    assert_eq!(fixture.run("cat -o raw").fine(), "abcdefg");
    let short = fixture.run("cat").fine();
    assert_eq!(short.lines().next(), Some("Nov 23 05:13:16 one[7]: a"));
}

#[test]
fn filters_choose_by_time_sequence_sender_and_text() {
    let fixture = three_files();
    for (filters, expected) in [
        ("-t one", "abcfg"),
        ("-t two", "de"),
        ("-t two -t one", "abcdefg"),
        ("-u app", "abcdefg"),
        ("-u other", ""),
        ("--pid 7 --uid 1000", "abcdefg"),
        ("--pid 8", ""),
        ("--since @1795410806", "defg"),
        ("--until @1795410806", "abcd"),
        ("-S 2026-11-23T05:13:17Z -U 2026-11-23T05:13:26Z", "bcd"),
        ("--after 5", "fg"),
        ("--after 7", ""),
        ("-g [a-c]", "abc"),
        ("-g [A-C]", ""),
        ("-p err", ""),
        ("-p info", "abcdefg"),
        ("--boot", "abcdefg"),
        ("--boot=00000000000000000000000000000001", ""),
    ] {
        assert_eq!(fixture.run(&format!("cat -o raw {filters}")).fine(), expected, "{filters}");
    }
}

#[test]
fn a_cursor_leads_back_to_its_event() {
    let fixture = three_files();
    let json = fixture.run("cat -o json").fine();
    let events: Vec<serde_json::Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let sequences: Vec<_> = events.iter().map(|event| event["__SEQNUM"].as_str().unwrap()).collect();
    assert_eq!(sequences, ["1", "2", "3", "4", "5", "6", "7"]);
    let cursor = events[4]["__CURSOR"].as_str().unwrap();
    assert_eq!(fixture.run(&format!("cat -o raw --cursor {cursor}")).fine(), "efg");
    let strange = cursor.replace("s=", "s=ffff").chars().take(34).collect::<String>() + ";n=1";
    assert!(fixture.run(&format!("cat --cursor {strange}")).failed(1).contains("another"));
}

#[test]
fn files_can_be_named_and_need_no_directory() {
    let mut fixture = three_files();
    fixture.close();
    let files = fixture.files();
    let mut command = fixture.command("cat -o raw");
    let output = command.arg(&files[0]).arg(&files[1]).output().unwrap();
    assert_eq!(Ran::of(output).fine(), "abcde");
    let output = command_on(&fixture, "cat nothing-there");
    let said = output.failed(1);
    assert!(said.contains("nothing-there") && said.contains("dbufctl segments"), "{said}");
}

#[test]
fn a_boot_after_a_space_is_answered_with_the_way_to_name_one() {
    let ran = three_files().run("cat -b 0");
    assert_eq!((ran.code, ran.err.lines().count()), (1, 1), "{ran:?}");
    assert!(ran.err.ends_with("to name a boot, write -b=ID without a space\n"), "{ran:?}");
}

fn command_on(fixture: &Fixture, line: &str) -> Ran {
    Ran::of(command(&fixture.runtime(), line).output().unwrap())
}

#[test]
fn a_directory_that_is_not_there_is_an_error_that_says_what_to_do() {
    let fixture = three_files();
    assert!(command_on(&fixture, "cat --directory /nonexistent/dbufd").failed(1).contains("--directory"));
}

#[test]
fn wrong_usage_is_told_in_one_line() {
    let fixture = three_files();
    for (line, has) in [
        ("cat --since soon", "--since"),
        ("cat -g (", "--grep"),
        ("cat -p loud", "emerg"),
        ("cat -o xml", "short"),
        ("cat --cursor x", "__CURSOR"),
        ("cat -f -r", "--reverse"),
    ] {
        assert!(fixture.run(line).failed(2).contains(has), "{line}");
    }
}

#[test]
fn a_loss_is_shown_in_its_place_and_ends_with_exit_code_3() {
    let mut fixture = Fixture::new();
    let loss = Loss { cause: Cause::TooBig, events: 3, bytes: 99, first_ns: START_NS, last_ns: START_NS };
    fixture.batch(&source("app", 7), |run| {
        run.text(0, "before").loss(1, &loss).text(2, "after");
    });
    let ran = fixture.run("cat");
    let lines: Vec<_> = ran.out.lines().collect();
    assert_eq!(lines[1], "-- Nov 23 05:13:17 3 events of app[7] lost (too_big) --");
    assert_eq!(lines.len(), 3);
    assert!(ran.failed(3).contains("3 events (3 too_big)"));
    let ran = fixture.run("cat -o json");
    assert!(ran.out.lines().nth(1).unwrap().contains("\"DBUF_LOST\":\"3\""));
    assert_eq!(fixture.run("cat -o cat").out, "before\nafter\n");
    assert_eq!(fixture.run("cat -o raw -t other").fine(), "");
    assert_eq!(fixture.run("cat -o raw --since @1795410798").fine(), "after");
    assert_eq!(fixture.run("cat -o raw --after 1").code, 3);
    assert_eq!(fixture.run("cat -o raw --after 2").fine(), "");
}

#[test]
fn damage_is_stepped_over_said_and_ends_with_exit_code_3() {
    let mut fixture = Fixture::new();
    fixture.texts("app", 0, &["good"]).texts("app", 1, &["bad, a long payload to be damaged"]).texts(
        "app",
        2,
        &["fine"],
    );
    fixture.close();
    let file = &fixture.files()[0];
    let bytes = std::fs::read(file).unwrap();
    let at = bytes.windows(3).position(|window| window == b"bad").unwrap();
    std::fs::File::options().write(true).open(file).unwrap().write_all_at(b"BAD", at as u64).unwrap();
    let ran = fixture.run("cat -o cat");
    assert_eq!(ran.out, "good\nfine\n");
    let said = ran.failed(3);
    assert!(said.contains("1 place") && said.contains("dbufctl verify") && said.contains(".segment"), "{said}");
}

#[test]
fn a_file_that_is_missing_in_the_middle_is_a_gap_and_one_at_the_front_is_not() {
    let mut fixture = three_files();
    fixture.close();
    let files = fixture.files();
    std::fs::remove_file(&files[1]).unwrap();
    let ran = fixture.run("cat -o raw");
    assert_eq!(ran.out, "abcfg");
    assert!(ran.failed(3).contains("2 events from sequence 4"));
    std::fs::remove_file(&files[0]).unwrap();
    assert_eq!(fixture.run("cat -o raw").fine(), "fg");
}

#[test]
fn a_reader_of_the_output_that_leaves_early_is_no_complaint() {
    let mut fixture = Fixture::new();
    let long = "x".repeat(10_000);
    fixture.batch(&source("app", 7), |run| {
        for _ in 0..100 {
            run.event(&Event { time_ns: START_NS, payload: long.as_bytes(), ..Event::default() });
        }
    });
    let (reader, writer) = std::io::pipe().unwrap();
    let child = fixture.command("cat").stdout(writer).stderr(std::process::Stdio::piped()).spawn().unwrap();
    drop(reader);
    assert_eq!(Ran::of(child.wait_with_output().unwrap()).fine(), "");
}

#[test]
fn bytes_go_to_a_pipe_as_they_are() {
    let mut fixture = Fixture::new();
    let payload: Vec<u8> = (0..=255).collect();
    fixture.batch(&source("app", 7), |run| {
        run.event(&Event { time_ns: START_NS, payload: &payload, ..Event::default() });
    });
    assert_eq!(fixture.command("cat -o raw").output().unwrap().stdout, payload);
}

#[test]
fn standard_output_that_is_full_is_an_error() {
    let fixture = three_files();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = fixture.command("cat").stdout(full).output().unwrap();
    assert!(Ran::of(output).failed(1).contains("standard output"));
}

#[test]
fn the_last_few_are_printed_oldest_first_or_newest_first() {
    let fixture = three_files();
    for (line, expected) in [
        ("-n 3", "efg"),
        ("-n 0", ""),
        ("-n 100", "abcdefg"),
        ("-n 2 -t two", "de"),
        ("-n 2 -g [a-e]", "de"),
        ("-n 2 --until @1795410806", "cd"),
        ("-n 3 --after 5", "fg"),
        ("-n 3 -t nobody", ""),
        ("-r", "gfedcba"),
        ("-r -n 3", "gfe"),
        ("-r -t one", "gfcba"),
        ("-r --after 3 --until @1795410806", "d"),
        ("-r -n 0", ""),
    ] {
        assert_eq!(fixture.run(&format!("cat -o raw {line}")).fine(), expected, "{line}");
    }
}

#[test]
fn a_loss_after_or_between_the_last_few_is_shown_and_one_before_them_is_not() {
    let mut fixture = Fixture::new();
    let loss = |events| Loss { cause: Cause::Malformed, events, bytes: 0, first_ns: START_NS, last_ns: START_NS };
    fixture.batch(&source("app", 7), |run| {
        run.loss(0, &loss(1)).text(1, "a").loss(2, &loss(2)).text(3, "b").text(4, "c").loss(5, &loss(3));
    });
    for (line, expected) in [
        ("-n 1", 3),
        ("-n 2", 3),
        ("-n 3", 5),
        ("-n 4", 6),
        ("", 6),
        ("-r", 6),
        ("-r -n 2", 3),
        ("--after 1", 5),
        ("-r --after 1", 5),
        ("--after 3", 3),
        ("-r --after 3", 3),
    ] {
        let said = fixture.run(&format!("cat -o cat {line}")).failed(3);
        assert!(said.contains(&format!(" {expected} events ({expected} malformed)")), "{line}: {said}");
    }
}

#[test]
fn pieces_of_a_long_line_are_one_event() {
    let mut fixture = Fixture::new();
    fixture.texts("app", 0, &["before"]);
    fixture.batch(&source("app", 7), |run| {
        run.pieces(1, &["long ", "line ", "in pieces"]).text(2, "after");
    });
    let whole = "before\nlong line in pieces\nafter\n";
    assert_eq!(fixture.run("cat -o cat").fine(), whole);
    assert_eq!(fixture.run("cat -o cat -n 2").fine(), "long line in pieces\nafter\n");
    assert_eq!(fixture.run("cat -o cat -n 1 -g line").fine(), "long line in pieces\n");
    assert_eq!(fixture.run("cat -o cat -r -n 2").fine(), "after\nlong line in pieces\n");
    assert_eq!(fixture.run("cat -o cat --after 1").fine(), "long line in pieces\nafter\n");
    assert_eq!(fixture.run("cat -o cat --since @1795410797").fine(), "long line in pieces\nafter\n");
}

#[test]
fn pieces_in_batches_of_their_own_are_joined_from_either_end() {
    let mut fixture = Fixture::new();
    fixture.texts("app", 0, &["before"]);
    let pieces = |first, last, text| {
        move |run: &mut Run| {
            run.piece(1, 99, (first, last), text);
        }
    };
    fixture.batch(&source("app", 7), pieces(true, false, "one "));
    fixture.batch(&source("app", 7), pieces(false, false, "two "));
    fixture.batch(&source("app", 7), pieces(false, true, "three"));
    for line in ["-n 1", "-r -n 1", "--after 1", "-g one", "--since @1795410797"] {
        assert_eq!(fixture.run(&format!("cat -o cat {line}")).fine(), "one two three\n", "{line}");
    }
}
