// A classifier on ONNX Runtime's CPU provider: reads a picture (binary PPM, P6), prints the likeliest classes.
//
//   g++ -O2 -std=c++17 -ffp-contract=off onnxruntime.cpp -I INCLUDE -L LIB -lonnxruntime -o classify
//   ./classify BUNDLE picture.ppm
//
// With -DWITHOUT_ONNXRUNTIME it needs no library, and writes what the model is fed to standard output, as raw float32.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>
#ifndef WITHOUT_ONNXRUNTIME
#include <onnxruntime_cxx_api.h>
#endif

// CONSTANTS

struct Picture {  // row by row, the channels of a pixel side by side
    int height, width, channels;
    std::vector<uint8_t> values;
    Picture(int h, int w, int c) : height(h), width(w), channels(c), values(size_t(h) * w * c) {}
};

int number(std::istream& file) {
    while ((file >> std::ws).peek() == '#') file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
    int value = 0;
    return file >> value ? value : 0;
}

Picture read_ppm(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::string kind;
    file >> kind;
    const int width = number(file), height = number(file), most = number(file);
    file.get();
    if (!file || kind != "P6" || most != 255 || width < 1 || height < 1 || int64_t(width) * height > 1 << 28)
        throw std::runtime_error(path + ": not a binary PPM picture of 8 bits (P6)");
    Picture picture(height, width, 3);
    file.read(reinterpret_cast<char*>(picture.values.data()), std::streamsize(picture.values.size()));
    if (!file) throw std::runtime_error(path + ": cut short");
    return picture;
}

Picture grey(const Picture& from) {  // ITU-R 601-2 luma in Pillow's arithmetic
    Picture to(from.height, from.width, 1);
    for (size_t at = 0; at < to.values.size(); ++at) {
        const uint8_t* rgb = &from.values[3 * at];
        to.values[at] = uint8_t((19595u * rgb[0] + 38470u * rgb[1] + 7471u * rgb[2] + 0x8000u) >> 16);
    }
    return to;
}

double kernel(double x) {
    x = std::abs(x);
    if (FILTER == BILINEAR) return std::max(1.0 - x, 0.0);
    const double a = -0.5;  // Keys' cubic convolution
    if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    return x < 2.0 ? (((x - 5) * x + 8) * x - 4) * a : 0.0;
}

struct Taps {  // what a new position reads: old positions from `first` on, and their weights in 22-bit fixed point
    int first;
    std::vector<int32_t> weights;
};

std::vector<Taps> taps_of(int before, int after) {  // as Pillow's Resample.c: the kernel grows when it shrinks
    const double scale = double(before) / after, stretch = std::max(scale, 1.0);
    const double support = (FILTER == BILINEAR ? 1.0 : 2.0) * stretch;
    std::vector<Taps> all;
    double nearest = scale * 0.5;
    for (int at = 0; at < after; ++at, nearest += scale) {
        if (FILTER == NEAREST) {
            all.push_back({std::min(int(nearest), before - 1), {1 << 22}});
            continue;
        }
        const double centre = (at + 0.5) * scale;
        const int first = std::max(int(centre - support + 0.5), 0), end = std::min(int(centre + support + 0.5), before);
        std::vector<double> weights;
        double sum = 0.0;
        for (int from = first; from < end; ++from) {
            weights.push_back(kernel((from - centre + 0.5) * (1.0 / stretch)));
            sum += weights.back();
        }
        Taps taps{first, {}};
        for (double weight : weights) {
            weight = weight / (sum == 0.0 ? 1.0 : sum) * (1 << 22);
            taps.weights.push_back(int32_t(std::trunc(weight + std::copysign(0.5, weight))));
        }
        all.push_back(taps);
    }
    return all;
}

Picture along(const Picture& from, bool rows, int after) {  // one axis brought to `after` positions, in 8 bits
    if (after == (rows ? from.height : from.width)) return from;
    Picture to(rows ? after : from.height, rows ? from.width : after, from.channels);
    const std::vector<Taps> all = taps_of(rows ? from.height : from.width, after);
    const size_t line = size_t(from.width) * from.channels, step = rows ? line : size_t(from.channels);
    for (int y = 0; y < to.height; ++y)
        for (int x = 0; x < to.width; ++x)
            for (int c = 0; c < to.channels; ++c) {
                const Taps& taps = all[size_t(rows ? y : x)];
                const uint8_t* old = &from.values[(rows ? x : 0) * size_t(from.channels) + (rows ? 0 : y) * line + c];
                int32_t sum = 1 << 21;
                for (size_t k = 0; k < taps.weights.size(); ++k) sum += old[(taps.first + k) * step] * taps.weights[k];
                to.values[(size_t(y) * to.width + x) * to.channels + c] = uint8_t(std::clamp(sum >> 22, 0, 255));
            }
    return to;
}

Picture resized(const Picture& from, int height, int width) {  // in the order of passes of Pillow 13
    const int rows = from.height - height, columns = from.width - width;
    const bool rows_first = rows > 0 && rows > 2 * columns;
    const Picture half = along(from, rows_first, rows_first ? height : width);
    return along(half, !rows_first, rows_first ? width : height);
}

Picture cropped(const Picture& from, int height, int width) {  // the middle; what lies outside is zero
    Picture to(height, width, from.channels);
    const auto shift = [](int have, int want) { return have < want ? -((want - have + 1) / 2) : (have - want) / 2; };
    const int top = shift(from.height, height), left = shift(from.width, width);
    for (int y = std::max(0, -top); y < height && y + top < from.height; ++y)
        for (int x = std::max(0, -left); x < width && x + left < from.width; ++x)
            for (int c = 0; c < to.channels; ++c)
                to.values[(size_t(y) * width + x) * to.channels + c] =
                    from.values[(size_t(y + top) * from.width + x + left) * to.channels + c];
    return to;
}

std::vector<float> prepared(const Picture& rgb) {  // channel, height, width
    Picture picture = CHANNELS == 1 ? grey(rgb) : rgb;
    if (RESIZE == EXACT) picture = resized(picture, RESIZE_HEIGHT, RESIZE_WIDTH);
    if (RESIZE == SHORTEST_EDGE) {
        const int high = picture.height, wide = picture.width;
        const int longer = int(double(RESIZE_HEIGHT) * std::max(high, wide) / std::min(high, wide));
        picture = wide <= high ? resized(picture, longer, RESIZE_HEIGHT) : resized(picture, RESIZE_HEIGHT, longer);
    }
    if (CROP) picture = cropped(picture, HEIGHT, WIDTH);
    if (picture.height != HEIGHT || picture.width != WIDTH) throw std::runtime_error("the picture has another size");
    std::vector<float> input;
    for (int c = 0; c < CHANNELS; ++c)
        for (size_t at = c; at < picture.values.size(); at += CHANNELS)
            input.push_back(float((picture.values[at] * RESCALE - MEAN[c]) / STD[c]));
    return input;
}

#ifdef WITHOUT_ONNXRUNTIME
void answer(const std::string&, std::vector<float>& input) {
    std::cout.write(reinterpret_cast<const char*>(input.data()), std::streamsize(input.size() * sizeof(float)));
}
#else
bool saturates() {  // int8 products are added in 16 bits: x86 without VNNI
#if defined(__x86_64__)
    std::ifstream file("/proc/cpuinfo");
    const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    return !text.empty() && text.find("vnni") == std::string::npos;
#else
    return false;
#endif
}

void answer(const std::string& bundle, std::vector<float>& input) {
    setenv("ORT_DISABLE_TELEMETRY", "1", 0);
    Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "edgepress");
    Ort::SessionOptions options;
    if (saturates()) options.AddConfigEntry("session.x64quantprecision", "1");
    Ort::Session session(env, (bundle + "/" + MODEL).c_str(), options);
    const int64_t shape[] = {1, CHANNELS, HEIGHT, WIDTH};
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    Ort::Value tensor = Ort::Value::CreateTensor<float>(memory, input.data(), input.size(), shape, 4);
    std::vector<Ort::Value> outputs = session.Run(Ort::RunOptions{nullptr}, &INPUT, &tensor, 1, &OUTPUT, 1);
    const float* logits = outputs[0].GetTensorData<float>();
    const size_t count = outputs[0].GetTensorTypeAndShapeInfo().GetElementCount();
    std::vector<std::string> labels(count);
    std::ifstream names(bundle + "/integrate/labels.txt");
    for (std::string& label : labels) std::getline(names, label);
    const float top = *std::max_element(logits, logits + count);
    std::vector<std::pair<double, std::string>> classes;
    double sum = 0.0;
    for (size_t at = 0; at < count; ++at) {
        classes.emplace_back(std::exp(double(logits[at]) - top), labels[at]);
        sum += classes.back().first;
    }
    std::sort(classes.rbegin(), classes.rend());
    for (size_t at = 0; at < std::min<size_t>(5, count); ++at)
        std::cout << classes[at].second << " " << classes[at].first / sum << "\n";
}
#endif

int main(int count, char** given) try {
    if (count != 3) throw std::runtime_error("give a bundle's folder and a picture");
    std::vector<float> input = prepared(read_ppm(given[2]));
    answer(given[1], input);
    return 0;
} catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 2;
}
