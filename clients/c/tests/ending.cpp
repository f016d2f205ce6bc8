// Logs while the program ends.
//
//     ending order SOCKET     in every place that runs at the end of a thread and of the program, one event each
//     ending race SOCKET      in threads that go on while main returns
#include "dbuf.h"

#include <chrono>
#include <cstring>
#include <thread>

namespace {

struct Last {
    const char *text;
    ~Last() { dbuf_log(DBUF_INFO, "%s", text); }
};

void at_exit() { dbuf_log(DBUF_INFO, "exit handler"); }

void in_thread(const char *text) {
    thread_local const Last last{text};
    (void)last.text;
}

void log_on() {
    for (;;) dbuf_log(DBUF_INFO, "%s", "still here");
}

} // namespace

int main(int count, char **arguments) {
    if (count != 3) return 2;
    // Made before the first event, so they are destroyed after what the header has registered for the exit.
    static const Last last{"static destructor"};
    std::atexit(at_exit);
    dbuf_options options = dbuf_options_default();
    options.socket = arguments[2];
    options.name = "ending";
    if (dbuf_log_options(&options) != 0) return 1;
    if (std::strcmp(arguments[1], "race") == 0) {
        for (int thread = 0; thread < 4; thread++) std::thread(log_on).detach();
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        return 0;
    }
    std::thread([] { in_thread("thread-local destructor"); }).join();
    in_thread("thread-local destructor of main");
    return dbuf_log(DBUF_INFO, "main") != 0;
}
