//! The daemon's own account, held against the senders'.

use serde_json::Value;

use crate::machine::Machine;

/// What the account said after the epoch before; it goes on through all of them, whatever happens to the daemon.
#[derive(Debug)]
pub(crate) struct Account {
    stored: u64,
    too_big: u64,
}

impl Account {
    /// As it is now.
    pub(crate) fn new(machine: &Machine) -> Self {
        Self::of(&ask(machine))
    }

    fn of(account: &Value) -> Self {
        let number = |of: &Value| of.as_u64().expect("a count");
        Self { stored: number(&account["stored"]), too_big: number(&account["lost"]["too_big"]) }
    }

    /// What is wrong with it, when this many events more are stored and that many were refused. Called when all is
    /// durable, before anything is deleted.
    pub(crate) fn is_wrong(&mut self, machine: &Machine, stored: u64, refused: u64) -> Vec<String> {
        let account = ask(machine);
        let due = Self { stored: self.stored + stored, too_big: self.too_big + refused };
        let mut wrong: Vec<String> = Vec::new();
        if account["ok"] != true || account["daemon"] != true {
            wrong.push(format!("the account does not add up: {}", account["findings"]));
        }
        let figures = ["sent", "stored", "lost_total", "in_memory"].map(|name| account[name].as_u64());
        if figures != [due.stored + due.too_big, due.stored, due.too_big, 0].map(Some) {
            wrong.push(format!("by the account: sent, stored, lost and in memory are {figures:?}, and not {due:?}"));
        }
        *self = Self::of(&account);
        wrong
    }
}

fn ask(machine: &Machine) -> Value {
    let output = machine.ctl(&["account", "--json"]);
    // 3 says that there were losses, which the caller looks at.
    assert!(matches!(output.status.code(), Some(0 | 3)), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}
