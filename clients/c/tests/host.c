/* Loads and unloads a plug-in while a thread that has used it lives on, then lets the thread end, and forks.
 *
 *     host PLUGIN SOCKET ROUNDS     prints how many descriptors are open before and after; between unloading and the
 *                                   end of the thread it waits for a character or the end of its input
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

typedef int (*say_function)(const char *socket, const char *text);

static pthread_barrier_t barrier;
static const char *socket_path;
static say_function say;

static int open_descriptors(void) {
    DIR *folder = opendir("/proc/self/fd");
    int count = 0;
    while (folder != NULL && readdir(folder) != NULL) count++;
    closedir(folder);
    return count;
}

static void *use(void *unused) {
    (void)unused;
    if (say(socket_path, "hello") != 0) abort();
    pthread_barrier_wait(&barrier);
    /* The plug-in is unloaded here. */
    pthread_barrier_wait(&barrier);
    return NULL;
}

static int fork_once(void) {
    int status = 1;
    pid_t child = fork();
    if (child == 0) _exit(0);
    return waitpid(child, &status, 0) == child ? status : 1;
}

static int round_of(const char *path) {
    pthread_t thread;
    void *plugin = dlopen(path, RTLD_NOW | RTLD_LOCAL), *symbol = plugin == NULL ? NULL : dlsym(plugin, "say");
    if (symbol == NULL) return 1;
    memcpy(&say, &symbol, sizeof say);
    if (pthread_create(&thread, NULL, use, NULL) != 0) return 1;
    pthread_barrier_wait(&barrier);
    if (dlclose(plugin) != 0 || dlopen(path, RTLD_NOW | RTLD_NOLOAD) != NULL) return 1;
    getchar();
    pthread_barrier_wait(&barrier);
    pthread_join(thread, NULL);
    return fork_once();
}

int main(int count, char **arguments) {
    int before, rounds;
    if (count != 4) return 2;
    socket_path = arguments[2];
    pthread_barrier_init(&barrier, NULL, 2);
    before = open_descriptors();
    for (rounds = atoi(arguments[3]); rounds > 0; rounds--)
        if (round_of(arguments[1]) != 0) return 1;
    printf("%d %d\n", before, open_descriptors());
    return 0;
}
