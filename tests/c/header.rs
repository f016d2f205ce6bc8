//! The header as a file: it is assembled, it compiles everywhere, and it writes and reads the golden vectors.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::harness::command;
use crate::support::c::{self, FOLDER, compile};

#[test]
fn the_header_compiles_without_a_warning_as_c_and_as_cpp() {
    let folder = tempfile::tempdir().expect("a folder");
    let empty = folder.path().join("empty.c");
    let twice = folder.path().join("twice.c");
    std::fs::write(&empty, "#include \"dbuf.h\"\nint main(void) { return 0; }\n").expect("a file");
    // Calls that are in no example; and the header a second time, after other headers.
    std::fs::write(
        &twice,
        "#include <stdio.h>\n#include \"dbuf.h\"\n#include \"dbuf.h\"\nint other(dbuf_producer *p);\n\
         int other(dbuf_producer *p) {\n\
         dbuf_options o = dbuf_options_default();\nreturn dbuf_log_options(&o) + \
         dbuf_send_within(p, DBUF_INFO, \"x\", 1, 5) + dbuf_tend(p);\n}\n",
    )
    .expect("a file");
    let example = |name: &str| Path::new(FOLDER).join("examples").join(name);
    let c = [empty.clone(), example("hello.c"), example("fields.c"), example("bench.c")];
    let cpp = [empty, example("hello.c"), example("threads.cpp")];
    let to = folder.path().join("out");
    std::thread::scope(|scope| {
        for (compiler, mode, sources) in [
            ("gcc", &["-std=c11", "-O2"][..], &c[..]),
            ("clang", &["-std=c11", "-O2"], &c),
            ("g++", &["-x", "c++", "-std=c++17", "-O2"], &cpp),
            ("clang++", &["-x", "c++", "-std=c++17", "-O2"], &cpp),
            ("gcc", &["-std=gnu11", "-O0", "-c"], std::slice::from_ref(&twice)),
            ("g++", &["-x", "c++", "-std=c++20", "-O3", "-c"], std::slice::from_ref(&twice)),
        ] {
            if compiler.starts_with("clang") && c::is_skipped(compiler) {
                continue;
            }
            let to = to.with_extension(format!("{compiler}{}", mode.len()));
            scope.spawn(move || {
                for source in sources {
                    let mode: Vec<&str> = mode.iter().copied().chain(["-pthread"]).collect();
                    compile(compiler, &mode, source, &to).unwrap_or_else(|report| panic!("{report}"));
                }
            });
        }
    });
}

/// Files of C and of C++ that include the header share what a program must have once.
#[test]
fn files_of_c_and_of_cpp_make_one_program_with_one_state() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path
    };
    let c = write("one.c", "#include \"dbuf.h\"\nvoid *one(void);\nvoid *one(void) { return dbuf_log_producer(); }\n");
    let cpp = write(
        "two.cpp",
        "#include \"dbuf.h\"\nextern \"C\" void *one(void);\nint main() {\n  dbuf_options o = dbuf_options_default();\n\
         o.socket = \"/dev/null/nobody\";\n  o.quiet = 1;\n  dbuf_log_options(&o);\n  return one() != nullptr && \
         one() == dbuf_log_producer() ? 0 : 1;\n}\n",
    );
    let (one, two, all) = (folder.path().join("one.o"), folder.path().join("two.o"), folder.path().join("all"));
    compile("gcc", &["-std=c11", "-c"], &c, &one).expect("it compiles");
    compile("g++", &["-std=c++17", "-c"], &cpp, &two).expect("it compiles");
    let linked =
        Command::new("g++").arg(&one).arg(&two).arg("-pthread").arg("-o").arg(&all).status().expect("g++ runs");
    assert!(linked.success());
    assert!(Command::new(&all).status().expect("it runs").success(), "each file has its own");
}

fn golden(name: &str) -> Vec<Value> {
    let path = Path::new(FOLDER).join("../golden").join(name);
    serde_json::from_str(&std::fs::read_to_string(path).expect("golden vectors")).expect("a list")
}

/// A text of the vector, `-` for an empty one.
fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    match value[key].as_str().unwrap_or_else(|| panic!("no text {key} in {value}")) {
        "" => "-",
        text => text,
    }
}

fn golden_fields(event: &Value) -> String {
    let fields: Vec<String> = event.get("fields").and_then(Value::as_array).into_iter().flatten().map(field).collect();
    return if fields.is_empty() { "-".into() } else { fields.join(",") };
    fn field(field: &Value) -> String {
        let part = |key: &str| field[key].as_str().expect("a text").to_string();
        format!("{}={}", part("name"), part("value"))
    }
}

fn level(frame: &Value, key: &str) -> usize {
    ["none", "persisted", "durable"].iter().position(|name| Some(*name) == frame[key].as_str()).expect("a level")
}

/// The question that has the golden program write a frame; None if the C client never writes such a frame.
fn to_write(frame: &Value) -> Option<String> {
    Some(match text(frame, "kind") {
        "hello" => format!(
            "hello {} {} {} {} {} {} {}",
            text(frame, "name"),
            level(frame, "ack"),
            frame["version"],
            frame["version_min"],
            frame["compatible"],
            frame["incompatible"],
            text(frame, "session")
        ),
        // A tag that is too long is refused, not cut.
        "event" if text(frame, "tag").len() <= 128 => format!(
            "event {} {} {} {} {} {}",
            frame["pri"],
            text(frame, "tag"),
            frame["time_ns"],
            golden_fields(frame),
            text(frame, "payload"),
            frame["sequence"]
        ),
        "sync" => "sync".into(),
        "bye" => "bye".into(),
        "ring" => format!("asking {}", frame["capacity"]),
        _ => return None,
    })
}

/// What the golden program must read from a frame; None if no daemon sends it.
fn to_read(frame: &Value) -> Option<String> {
    Some(match text(frame, "kind") {
        "welcome" => format!(
            "welcome {} {} {} {} {}",
            frame["last"], frame["max_event"], frame["version"], frame["compatible"], frame["incompatible"]
        ),
        "ack" => format!("ack {} {}", level(frame, "level"), frame["sequence"]),
        "error" => format!("error {} {} {} {}", frame["code"], frame["first"], frame["last"], text(frame, "text")),
        "grant" => format!("grant {}", frame["capacity"]),
        "ignored" => format!("ignored {}", frame["number"]),
        _ => return None,
    })
}

/// Questions and their right answers, in which `..` stands for any byte.
fn golden_questions() -> Vec<(String, String)> {
    let mut questions = Vec::new();
    for vector in golden("frames.json") {
        let hex = text(&vector, "hex");
        if vector.get("error").is_some() {
            questions.push((format!("read {hex}"), "refused".into()));
            continue;
        }
        let only = vector.get("only").and_then(Value::as_str);
        if let Some(question) = to_write(&vector["frame"]).filter(|_| only != Some("decode")) {
            questions.push((question, hex.into()));
        }
        // A client refuses frames that only clients send.
        let reading = to_read(&vector["frame"]).unwrap_or("refused".into());
        if only != Some("encode") {
            questions.push((format!("read {hex}"), reading));
        }
    }
    for vector in golden("ring.json") {
        let mut question = format!("ring {} {}\n", vector["capacity"], vector["start"]);
        for event in vector["events"].as_array().expect("a list") {
            let clock = ["none", "nanoseconds", "ticks"].iter().position(|name| *name == text(event, "clock"));
            question += &format!(
                "put {} {} {} {} {} {}\n",
                event["pri"],
                text(event, "tag"),
                clock.expect("a clock"),
                event["time"],
                golden_fields(event),
                text(event, "payload")
            );
        }
        questions.push((question + "dump", format!("{} {}", vector["head"], text(&vector, "hex"))));
    }
    questions
}

#[test]
fn every_golden_vector_is_what_the_header_writes_and_reads() {
    let questions = golden_questions();
    assert!(questions.len() > 60, "the golden vectors were not found");
    let mut child = command("golden").spawn().expect("the golden program starts");
    let mut to = child.stdin.take().expect("a pipe");
    let mut from = BufReader::new(child.stdout.take().expect("a pipe"));
    for (question, wanted) in questions {
        writeln!(to, "{question}").expect("it reads");
        to.flush().expect("it reads");
        let mut answer = String::new();
        from.read_line(&mut answer).expect("it answers");
        let is_same = answer.trim_end().len() == wanted.len()
            && answer.bytes().zip(wanted.bytes()).all(|(is, golden)| is == golden || golden == b'.');
        assert!(is_same, "{question}\nis  {answer}not {wanted}");
    }
    drop(to);
    assert!(child.wait().expect("it ends").success());
}

#[test]
fn the_header_is_what_its_parts_make() {
    let assemble = Path::new(FOLDER).join("assemble");
    let output = Command::new(assemble).arg("--check").output().expect("python3 runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
