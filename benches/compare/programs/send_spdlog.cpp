// spdlog's asynchronous logger in the program itself: two threads send, spdlog's own thread writes one file.
//
//     send_spdlog FILE PRODUCERS EVENTS SIZES
//
// Where its queue is full a call waits, so that nothing is lost. It reports when the file is written, and the processor
// time of the threads that send; the rest of the process's time is the writing thread's.
#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <spdlog/async.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/spdlog.h>

#include "sender.h"

namespace {

events the_events;
std::atomic<bool> is_time{false};
std::atomic<uint64_t> cpu_us{0};

void produce(spdlog::logger *logger, unsigned producer, uint64_t count) {
    std::vector<char> event(EVENT_BYTES_MAX);
    events_head head = events_head_first(producer);
    while (!is_time) std::this_thread::yield();
    double before = sender_cpu_us(RUSAGE_THREAD);
    for (uint64_t number = 0; number < count; number++) {
        unsigned bytes = events_write(&the_events, producer, number, &head, event.data());
        logger->info(spdlog::string_view_t(event.data(), bytes));
        events_head_next(&head);
    }
    cpu_us += static_cast<uint64_t>(sender_cpu_us(RUSAGE_THREAD) - before);
}

} // namespace

int main(int argument_count, char **arguments) {
    if (argument_count != 5) return 2;
    events_init(&the_events, arguments[4]);
    spdlog::init_thread_pool(spdlog::details::default_async_q_size, 1);
    auto logger = spdlog::basic_logger_mt<spdlog::async_factory>("compare", std::string(arguments[1]));
    logger->set_pattern("%v");
    sender_ready();
    std::vector<std::thread> threads;
    for (int producer = 0; producer < std::atoi(arguments[2]); producer++)
        threads.emplace_back(produce, logger.get(), producer, std::strtoull(arguments[3], nullptr, 10));
    is_time = true;
    for (auto &thread : threads) thread.join();
    logger.reset();
    spdlog::shutdown();
    sender_report(static_cast<double>(cpu_us));
    return 0;
}
