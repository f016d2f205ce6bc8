// A call of spdlog's asynchronous logger with the payload: its queue is larger than a batch, and empty before each.
#include <memory>
#include <string>

#include <spdlog/async.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/spdlog.h>

#include "calls.h"

namespace {

std::shared_ptr<spdlog::logger> logger;

int open_logger(const char *folder) {
    try {
        spdlog::init_thread_pool(8 * CALL_BATCH, 1);
        logger = spdlog::basic_logger_mt<spdlog::async_factory>("calls", std::string(folder) + "/spdlog.log");
        logger->set_pattern("%v");
        return 0;
    } catch (const std::exception &) {
        return -1;
    }
}

void make(unsigned count, const char *payload) {
    for (unsigned i = 0; i < count; i++) logger->info(spdlog::string_view_t(payload, CALL_PAYLOAD_BYTES));
}

void drain() {
    while (spdlog::thread_pool()->queue_size() > 0) {
    }
}

int close_logger() {
    logger.reset();
    spdlog::shutdown();
    return 0;
}

} // namespace

extern "C" const call call_spdlog = {
    "spdlog: one asynchronous call", CALL_BATCH, open_logger, make, drain, close_logger};
