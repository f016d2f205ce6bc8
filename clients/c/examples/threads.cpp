// Threads in C++: a producer that closes itself at the end of its scope, and dbuf_log(), which needs no producer.
//
//     c++ -std=c++17 -I.. threads.cpp -o threads && ./threads && dbufctl tail
#include "dbuf.h"

#include <cstdio>
#include <memory>
#include <string_view>
#include <thread>
#include <vector>

namespace {

struct Close {
    void operator()(dbuf_producer *producer) const { dbuf_close(producer); }
};
using Producer = std::unique_ptr<dbuf_producer, Close>;

Producer open(const char *name) {
    dbuf_options options = dbuf_options_default();
    options.name = name;
    dbuf_producer *producer = nullptr;
    const int error = dbuf_open(&producer, &options);
    if (error != 0) std::fprintf(stderr, "dbuf_open: %s\n", dbuf_strerror(error));
    return Producer(producer);
}

int send(const Producer &producer, std::string_view text) {
    return dbuf_send(producer.get(), DBUF_INFO, text.data(), text.size());
}

} // namespace

int main() {
    const Producer producer = open("main");
    if (!producer) return 1;
    int error = send(producer, "the workers begin");

    std::vector<std::thread> workers;
    for (int worker = 0; worker < 4; worker++) {
        // Each thread has a ring of its own, from its first event to its end.
        workers.emplace_back([worker] { dbuf_log(DBUF_INFO, "worker %d is at work", worker); });
    }
    for (std::thread &worker : workers) worker.join();

    if (error == 0) error = send(producer, "the workers are done");
    if (error == 0) error = dbuf_sync(producer.get(), 5000);
    if (error != 0) std::fprintf(stderr, "%s: %s\n", dbuf_strerror(error), dbuf_last_error(producer.get()));
    return error == 0 ? 0 : 1;
}
